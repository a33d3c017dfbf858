package edit_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// reached is whose an address is for a relay: the account, the name of an entry
// that has none, or nobody's.
func reached(t *testing.T, d *ldap.Directory, address string) string {
	t.Helper()
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := d.Domain(t.Context(), a.Domain)
	if err != nil {
		t.Errorf("%s: %v", address, err)
		return "nobody"
	}
	ans, err := d.Lookup(t.Context(), dom, a)
	if errors.Is(err, directory.ErrNotFound) {
		return "nobody"
	}
	if err != nil || ans.CatchAll {
		t.Errorf("%s: %+v, %v", address, ans, err)
		return "nobody"
	}
	e, err := directory.Sole(ans.Entries)
	if err != nil {
		t.Errorf("%s: %v", address, err)
		return "nobody"
	}
	if e.Kind == directory.User {
		return e.Mailbox
	}
	return "list"
}

// TestRenameIsFound asks by the lookup of relays before and after each write of a
// rename to another domain, of taking one back, and of going on with one: one of
// the two addresses leads to the entry, and never to a third mailbox. At the end
// it is as ever: the new address does, and the old one is nobody's.
func TestRenameIsFound(t *testing.T) {
	for name, tt := range map[string]struct {
		kind           edit.Kind
		from, to       string
		uid            []string
		had, gets      string
		gap            bool // there is a write between which and the next neither leads anywhere
		otherAlternate bool // the new address is one of the entry already
	}{
		"user":                     {edit.User, "u0002@example.org", "u0002@other.example", nil, "u0002@example.org", "u0002@other.example", false, false},
		"address and uid":          {edit.User, "u0002@example.org", "eva@other.example", []string{"eva"}, "u0002@example.org", "eva@other.example", false, false},
		"new address is known":     {edit.User, "u0002@example.org", "eva@other.example", nil, "u0002@example.org", "u0002@other.example", false, true},
		"list":                     {edit.Group, "one@example.org", "first@other.example", nil, "list", "list", false, false},
		"named by cn":              {edit.User, "dan@example.org", "dan@other.example", nil, "dan@example.org", "dan@other.example", false, false},
		"named by cn, another uid": {edit.User, "dan@example.org", "daniel@other.example", []string{"daniel"}, "dan@example.org", "daniel@other.example", true, false},
	} {
		for server, start := range servers {
			t.Run(server+" "+name, func(t *testing.T) {
				s := start(t, fixture.Tree("example.org", 4, 0))
				d := dirtest.Dial(t, s)
				ed, _ := open(t, d, false)
				do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "other.example", Values: edit.Values{"mail-host": {"pair1"}}})
				do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "one@example.org", Values: edit.Values{"member": {"u0002@example.org"}}})
				_, raw, err := ed.Show(t.Context(), edit.User, "u0003@example.org")
				if err != nil {
					t.Fatal(err)
				}
				for attr, value := range map[string]string{"uid": "dan", "cn": "Dan", "sn": "Dan", "mail": "dan@example.org"} {
					raw.Put(attr, value)
				}
				if err := d.Add(t.Context(), "cn=Dan,ou=people,"+base, raw); err != nil {
					t.Fatal(err)
				}
				if tt.otherAlternate { // as a run leaves it that was ended, and whose note was taken out
					if err := d.Modify(t.Context(), "uid=u0002,ou=people,"+base, []ldap.Modification{{Attribute: "mailEquivalentAddress", Values: []string{tt.to}}}); err != nil {
						t.Fatal(err)
					}
				}
				was := all(t, d, fixture.Root)
				req := edit.Request{Op: edit.Rename, Kind: tt.kind, Name: tt.from, To: tt.to, Values: edit.Values{"uid": tt.uid}, NewMailbox: true}

				gaps := 0
				look := func(when string) {
					old, now := reached(t, d, tt.from), reached(t, d, tt.to)
					switch {
					case old == tt.had && now == "nobody", old == "nobody" && now == tt.gets:
					case tt.gap && old == "nobody" && now == "nobody":
						gaps++
					default:
						t.Errorf("%s: %s leads to %s, %s to %s", when, tt.from, old, tt.to, now)
					}
				}
				gated, g := before(t, s)
				ask := func(n int64) { look(fmt.Sprintf("before write %d", n)) }
				g.asked.Store(&ask)
				finished := func() {
					t.Helper()
					if old, now := reached(t, d, tt.from), reached(t, d, tt.to); old != "nobody" || now != tt.gets {
						t.Errorf("at the end %s leads to %s, %s to %s", tt.from, old, tt.to, now)
					}
				}
				undisturbed := func() (writes int64) {
					t.Helper()
					g.refuse(0, 0)
					ed, _ := open(t, dirtest.Dial(t, gated), false)
					do(t, ed, req)
					finished()
					return g.seen.Load()
				}
				gaps = 0
				writes := undisturbed()
				if writes < 4 || (gaps == 1) != tt.gap {
					t.Errorf("%d writes, %d gaps", writes, gaps)
				}
				for n := int64(1); n <= writes; n++ {
					again(t, d, was, fixture.Root)
					ed, _ := open(t, dirtest.Dial(t, gated), false)
					g.refuse(n, 1)
					if _, err := ed.Do(t.Context(), req); err == nil {
						t.Errorf("write %d was refused, and no error", n)
					}
					look(fmt.Sprintf("write %d refused", n))
					undisturbed()
				}
				for n := int64(1); n <= writes; n++ {
					for _, late := range []bool{false, true} {
						again(t, d, was, fixture.Root)
						g.refuse(0, 0)
						g.late.Store(late)
						g.dead.Store(false)
						g.kill.Store(n)
						killed(t, gated, g, req, func(*ldap.Config) {}, func(*edit.Config) {})
						look(fmt.Sprintf("killed at write %d, late %v", n, late))
						g.dead.Store(false)
						g.kill.Store(0)
						if n < writes || !late {
							undisturbed()
						}
						finished()
					}
				}
			})
		}
	}
}
