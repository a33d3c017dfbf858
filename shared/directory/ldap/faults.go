package ldap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/metrics"
)

const (
	tellEvery = time.Minute // between two log lines about the same fault
	maxTold   = 1000        // faults remembered
)

// reporter counts every fault and tells each of them now and then.
type reporter struct {
	mu   sync.Mutex
	told map[string]time.Time
}

// due reports whether a fault is to be told again.
func (r *reporter) due(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, ok := r.told[key]; ok && now.Sub(at) < tellEvery {
		return false
	}
	if r.told == nil || len(r.told) >= maxTold {
		r.told = map[string]time.Time{}
	}
	r.told[key] = now
	return true
}

// note counts and tells a failure, and returns err with its subject.
func (d *Directory) note(subject string, err error) error {
	kind := directory.FaultOf(err)
	if kind == "" {
		return err
	}
	err = fmt.Errorf("%s: %w", subject, err)
	metrics.DirFaults.With(kind).Inc()
	key := kind
	if kind == "ambiguous" || kind == "misconfigured" {
		key += " " + subject
	}
	if d.reports.due(key, time.Now()) {
		d.cfg.Log.Warn("directory question failed", "fault", kind, "error", err)
	}
	return err
}

// lags counts and tells that only the master knew the answer to a question.
func (d *Directory) lags(subject string) {
	metrics.DirFaults.With("replica_lags").Inc()
	if d.reports.due("replica_lags", time.Now()) {
		d.cfg.Log.Warn("directory replica lags behind the master", "fault", "replica_lags", "question", subject)
	}
}

// broken counts and tells values of an entry that cannot be read. They never
// hide the entry.
func (d *Directory) broken(dn string, faults []string) {
	if len(faults) == 0 {
		return
	}
	metrics.DirFaults.With("broken_value").Add(float64(len(faults)))
	if d.reports.due("broken "+dn, time.Now()) {
		d.cfg.Log.Warn("directory entry has values that cannot be read", "dn", dn, "faults", faults)
	}
}

// classify says in the words of package directory what a search failed with.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultTimeLimitExceeded,
		ldap.LDAPResultAdminLimitExceeded, ldap.LDAPResultReferral):
		return fmt.Errorf("%w: %w", directory.ErrIncomplete, err)
	}
	return err
}

// whole turns "no such object" for something that must exist into a fault.
func (d *Directory) whole(err error) error {
	if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return fmt.Errorf("%w: search base is missing: %w", directory.ErrMisconfigured, err)
	}
	return err
}

// absent is nil when "no such object" is a clean answer: something below root
// is missing, and root is not.
func (d *Directory) absent(ctx context.Context, root *ldap.DN, err error) error {
	var le *ldap.Error
	if errors.As(err, &le) && le.MatchedDN != "" {
		if matched, parseErr := ldap.ParseDN(le.MatchedDN); parseErr == nil &&
			(root.EqualFold(matched) || root.AncestorOfFold(matched)) {
			return nil
		}
	}
	if _, err := d.search(ctx, root.String(), ldap.ScopeBaseObject, anything, []string{"1.1"}, 1); err != nil {
		return fmt.Errorf("%q: %w", root.String(), d.whole(err))
	}
	return nil
}

// missing turns "no such object" for something below a base into ErrNotFound,
// once it is clear that the base itself is there.
func (d *Directory) missing(ctx context.Context, err error) error {
	if !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return err
	}
	if err := d.absent(ctx, d.bases[0], err); err != nil {
		return err
	}
	return directory.ErrNotFound
}
