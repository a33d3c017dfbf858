package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/config"
)

// asked are options that are read where they are needed, or that the record of mail
// events is told of.
var asked = []string{"mail.answers", "mail.folders", "raft.reseed", "journal.file_size", "journal.files", "tracing.endpoint", "tracing.sample"}

// TestReloadable: the options that the table says follow a reload are just those that
// a replica that runs is told anew, and those that are asked.
func TestReloadable(t *testing.T) {
	with := func(name, value string) options {
		t.Helper()
		text := "node: pair1-a\ncluster: east\ndir: /var/lib/postern\n"
		sections := map[string]string{
			"raft":   "  listen: 127.0.0.1:1\n",
			"groups": "  - {pair: pair1, members: [{node: pair1-a, id: \"0123456789abcdef\", addr: \"127.0.0.1:1\"}]}\n",
		}
		if section, option, ok := strings.Cut(name, "."); ok {
			sections[section] += "  " + option + ": " + value + "\n"
		}
		for section, lines := range sections {
			text += section + ":\n" + lines
		}
		c, err := config.Parse[config.Backend]("c.yaml", []byte(text), config.NoEnv, nil)
		if err != nil {
			t.Fatalf("%s = %s: %v", name, value, err)
		}
		return optionsOf(c)
	}
	before := with("", "")
	for i := range config.Table {
		o := &config.Table[i]
		if o.Tier&config.TierBackend == 0 || o.Tier&config.TierWitness != 0 && !strings.HasPrefix(o.Name, "raft.") || strings.Contains(o.Name, "[]") {
			continue
		}
		value := "127.0.0.1:7777"
		switch o.Type {
		case config.Int, config.Octets:
			value = fmt.Sprint(max(o.Min, 1) + 1)
		case config.Duration:
			value = fmt.Sprint(max(o.Min, 1)+1) + "s"
		case config.Bool:
			value = "no"
		case config.String:
			if o.Values != nil {
				value = o.Values[1]
			}
		case config.Objects:
			continue
		}
		if o.Name == "raft.listen" {
			continue
		}
		told := with(o.Name, value)
		told.upkeep.Snapshots.Dir = before.upkeep.Snapshots.Dir // a reload keeps it
		if told := told != before || slices.Contains(asked, o.Name); told != o.Reload {
			t.Errorf("%s: the table says reload %v, a replica is told anew: %v", o.Name, o.Reload, told)
		}
	}
}

// TestPlansChange: what is planned is planned anew when the rules change, and only
// then.
func TestPlansChange(t *testing.T) {
	n := newNode(t, t.TempDir())
	u := n.upkeep
	waits := make(chan time.Duration, 100)
	u.cfg.After = func(d time.Duration) (<-chan time.Time, func()) {
		if d != time.Second { // of the guard
			waits <- d
		}
		return nil, func() {}
	}
	served := make(chan error)
	go func() { served <- u.serve() }()
	plans := func(what string, want ...time.Duration) {
		t.Helper()
		var got []time.Duration
		for range want {
			got = append(got, <-waits)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	rules, _ := u.now()
	plans("at first", settle, 10*time.Minute) // no snapshot yet; digest
	u.set(rules)                              // nothing is another one
	rules.CompactEvery, rules.ScrubEvery, rules.DigestEvery = 2*time.Hour, time.Hour, 5*time.Minute
	rules.Rate = 1 << 20
	u.set(rules)
	plans("more of them", settle, settle, 5*time.Minute, 2*time.Hour)
	rules.DigestEvery, rules.Snapshots.Every, rules.ScrubEvery = 0, 0, 0
	u.set(rules)
	plans("fewer", 2*time.Hour)
	rules.CompactEvery, rules.DigestEvery = time.Hour, time.Hour
	u.set(rules)
	plans("and again", time.Hour, time.Hour)
	u.cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if len(waits) > 0 {
		t.Errorf("planned more than once: %v", <-waits)
	}
}

// TestKeepChanges: fewer snapshots are kept from the next one on.
func TestKeepChanges(t *testing.T) {
	n := newNode(t, t.TempDir())
	count := func() int {
		list, err := n.upkeep.keeper.List()
		n.check(err)
		return len(list)
	}
	make := func() {
		n.clock = n.clock.Add(time.Hour)
		_, err := n.upkeep.snapshot("", false)
		n.check(err)
	}
	for range 5 {
		make()
	}
	if count() != 3 {
		t.Errorf("%d are kept", count())
	}
	rules, _ := n.upkeep.now()
	rules.Snapshots.Keep = 2
	n.upkeep.set(rules)
	make()
	if count() != 2 {
		t.Errorf("%d are kept", count())
	}
}
