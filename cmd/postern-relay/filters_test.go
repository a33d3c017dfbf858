package main

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
)

// TestFilters: which filters judge what, and which stay over a reload.
func TestFilters(t *testing.T) {
	c := new(config.Relay)
	c.Filters = []config.Filter{
		{Name: "sign", Address: "inet:127.0.0.1:8891", Services: []string{"submit"}},
		{Name: "greylist", Address: "unix:/run/grey.sock", Services: []string{"mx"}},
		{Name: "both", Address: "unix:/run/both.sock", Services: []string{"mx", "submit"}, OnFailure: "accept"},
		{Name: "spam", Address: "unix:/run/spam.sock", Services: []string{"mx"}, OptIn: []string{"spam", "rspamd"}, RefusedForSome: "hold"},
	}
	in := &inside{c: c}
	var err error
	if in.filters, err = makeFilters(c, nil, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	names := func(fs []policy.Filter) (out []string) {
		for _, f := range fs {
			out = append(out, f.Name())
		}
		return out
	}
	if got := names(in.following("mx")); !slices.Equal(got, []string{"greylist", "both"}) {
		t.Errorf("mx: %q", got)
	}
	if got := names(in.following("submit")); !slices.Equal(got, []string{"sign", "both"}) {
		t.Errorf("submit: %q", got)
	}
	if got := in.optIn(); len(got) != 1 || got[0].Name() != "spam" || got[0].Some != transaction.Hold || len(got[0].Words) != 2 {
		t.Errorf("by opt-in: %+v", got)
	}
	// What a filter has not changed in keeps what is known of it.
	next := new(config.Relay)
	next.Filters = slices.Clone(c.Filters)
	next.Filters[1].OnFailure = "accept"
	again, err := makeFilters(next, nil, in, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range again {
		if same := again[i].Filter == in.filters[i].Filter; same != (i != 1) {
			t.Errorf("%s: kept %v", again[i].cfg.Name, same)
		}
	}
}
