package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/admin"
)

// TestStoreModel compares a store that is delivered to, changed, expunged,
// compacted, scrubbed, snapshot, restarted and made anew with a map of what
// each account holds.
func TestStoreModel(t *testing.T) {
	base := t.TempDir()
	runs := 0
	// Each step flushes real files. More by -rapid.checks.
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue && os.Getenv("POSTERN_NIGHTLY") == "" {
		defer checks.Value.Set(checks.DefValue)
		if err := checks.Value.Set("10"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		n := &node{t: t, dir: fmt.Sprintf("%s/%d", base, runs), clock: time.Now(), seg: 16 << 10, rate: 1 << 30}
		n.start()
		defer n.stop()
		type message struct {
			body  string
			flags mailbox.Flags
		}
		model := map[string]map[uint32]message{}
		next := map[string]uint32{}
		accounts := []string{"a@example.org", "b@example.org"}
		sent := 0
		rt.Repeat(map[string]func(*rapid.T){
			"deliver": func(rt *rapid.T) {
				account := rapid.SampledFrom(accounts).Draw(rt, "account")
				for range rapid.IntRange(1, 6).Draw(rt, "n") {
					size := rapid.IntRange(1, 5000).Draw(rt, "size")
					sent++
					n.deliver(account, sent, size)
					if model[account] == nil {
						model[account], next[account] = map[uint32]message{}, 1
					}
					model[account][next[account]] = message{body: string(text(sent, size))}
					next[account]++
				}
			},
			"expunge": func(rt *rapid.T) {
				account := rapid.SampledFrom(accounts).Draw(rt, "account")
				mod := uint32(rapid.IntRange(1, 4).Draw(rt, "mod"))
				if len(model[account]) == 0 {
					return
				}
				n.expunge(account, func(uid uint32) bool { return uid%mod == 0 })
				maps.DeleteFunc(model[account], func(uid uint32, _ message) bool { return uid%mod == 0 })
			},
			"flags": func(rt *rapid.T) {
				account := rapid.SampledFrom(accounts).Draw(rt, "account")
				if len(model[account]) == 0 {
					return
				}
				uid := rapid.SampledFrom(slices.Sorted(maps.Keys(model[account]))).Draw(rt, "uid")
				flags := mailbox.Flags(rapid.IntRange(0, 31).Draw(rt, "flags"))
				v := n.view(account, "INBOX")
				defer v.Close()
				_, err := v.Store(rt.Context(), []uint32{uid}, mailbox.StoreReplace, flags, nil, nil)
				n.check(err)
				m := model[account][uid]
				m.flags = flags
				model[account][uid] = m
			},
			"compact": func(rt *rapid.T) {
				n.clock = n.clock.Add(2 * time.Hour)
				_, err := n.upkeep.compact(rt.Context())
				n.check(err)
			},
			"snapshot": func(*rapid.T) {
				n.clock = n.clock.Add(2 * time.Second)
				_, err := n.upkeep.snapshot("", false)
				n.check(err)
			},
			"scrub": func(rt *rapid.T) {
				if r, err := n.upkeep.scrub(rt.Context()); err != nil || r.Damaged+r.Wrong > 0 {
					rt.Fatalf("%+v, %v", r, err)
				}
			},
			"verify": func(rt *rapid.T) {
				if names := n.snapshots(); len(names) > 0 {
					n.mustDo(admin.UpkeepTask{Task: admin.TaskVerify, Name: rapid.SampledFrom(names).Draw(rt, "snapshot")})
				}
			},
			"restart": func(*rapid.T) {
				n.stop()
				n.start()
			},
			"rebuild": func(rt *rapid.T) {
				if n.snapshots() == nil {
					return
				}
				index, digest := n.machine.Digest()
				n.rebuildRows(rt)
				if at, sum := n.machine.Digest(); at != index || sum != digest {
					rt.Fatalf("made anew: digest %v at %d, was %v at %d", sum, at, digest, index)
				}
			},
			"": func(rt *rapid.T) {
				for account, want := range model {
					got := n.bodies(account, "INBOX")
					if len(got) != len(want) {
						rt.Fatalf("%s has %d messages, want %d", account, len(got), len(want))
					}
					for uid, m := range want {
						if got[uid] != m.body {
							rt.Fatalf("%s, message %d: %d octets, want %d", account, uid, len(got[uid]), len(m.body))
						}
					}
				}
			},
		})
		if _, err := n.rows.Verify(); err != nil {
			rt.Fatal(err)
		}
		for account, want := range model {
			v := n.view(account, "INBOX")
			for i := 1; i <= v.Len(); i++ {
				n.check(v.Rows(rt.Context(), []int{i}, func(_ int, w *mailbox.Row) error {
					if w.Flags != want[w.UID].flags {
						rt.Fatalf("%s, message %d has flags %v, want %v", account, w.UID, w.Flags, want[w.UID].flags)
					}
					return nil
				}))
			}
			v.Close()
		}
	})
}
