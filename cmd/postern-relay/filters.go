package main

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/policy/milter"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/dns"
)

// maxFilters is how many filters a relay can have.
const maxFilters = 16

// filter is one that is configured.
type filter struct {
	cfg config.Filter
	*milter.Filter
}

var onFailure = map[string]milter.OnFailure{"tempfail": milter.Tempfail, "accept": milter.Accept, "reject": milter.Reject}

var refusedForSome = map[string]transaction.Some{"notify": transaction.Notify, "hold": transaction.Hold, "discard": transaction.Discard}

// makeFilters makes the filters of c. What is known of one that stays as it was, that
// it does not answer, stays known.
func makeFilters(c *config.Relay, resolver dns.Resolver, before *inside, log *slog.Logger) ([]filter, error) {
	if len(c.Filters) > maxFilters {
		return nil, fmt.Errorf("filters: %d of them, at most %d", len(c.Filters), maxFilters)
	}
	var out []filter
	for i, f := range c.Filters {
		at := fmt.Sprintf("filters[%d]", i)
		if slices.ContainsFunc(out, func(o filter) bool { return strings.EqualFold(o.cfg.Name, f.Name) }) {
			return nil, fmt.Errorf("%s.name: there are two filters %s", at, f.Name)
		}
		if len(f.OptIn) == 0 && len(f.Services) == 0 {
			return nil, fmt.Errorf("%s: neither services nor opt_in, it would judge nothing", at)
		}
		if before != nil && before.c.Hostname == c.Hostname && before.c.SMTP.MaxSize == c.SMTP.MaxSize && reflect.DeepEqual(before.c.DNS.Servers, c.DNS.Servers) {
			if same := slices.IndexFunc(before.filters, func(o filter) bool { return reflect.DeepEqual(o.cfg, f) }); same >= 0 {
				out = append(out, before.filters[same])
				continue
			}
		}
		m, err := milter.New(milter.Config{
			Name: f.Name, Address: f.Address, Hostname: c.Hostname, Host: login.HostOf(resolver), Log: log, OnFailure: onFailure[f.OnFailure],
			ConnectTimeout: f.ConnectTimeout, CommandTimeout: f.CommandTimeout, MessageTimeout: f.MessageTimeout, MessageTotal: 2 * f.MessageTimeout,
			MaxReply: 2 * int64(c.SMTP.MaxSize),
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
		out = append(out, filter{f, m})
	}
	return out, nil
}

// following are the filters of all mail of a role.
func (in *inside) following(role string) (out []policy.Filter) {
	for _, f := range in.filters {
		if len(f.cfg.OptIn) == 0 && slices.Contains(f.cfg.Services, role) {
			out = append(out, f.Filter)
		}
	}
	return out
}

// optIn are the filters that people opt in to.
func (in *inside) optIn() (out []transaction.Filter) {
	for _, f := range in.filters {
		if len(f.cfg.OptIn) > 0 {
			out = append(out, transaction.Filter{Filter: f.Filter, Words: f.cfg.OptIn, Some: refusedForSome[f.cfg.RefusedForSome]})
		}
	}
	return out
}
