package edit_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// kept is an entry to be made again.
type kept struct {
	dn  string
	raw directory.Attributes
}

// all reads what is at and below bases, those above others first.
func all(t *testing.T, d *ldap.Directory, bases ...string) (out []kept) {
	t.Helper()
	for _, b := range bases {
		err := d.Scan(t.Context(), b, ldap.Everything, nil, func(dn string, raw directory.Attributes) error {
			raw = slices.DeleteFunc(raw.Clone(), func(a directory.Attribute) bool {
				return slices.Contains([]string{"entrycsn", "modifytimestamp", "modifiersname", "createtimestamp", "creatorsname", "entryuuid"}, strings.ToLower(a.Name))
			})
			out = append(out, kept{dn, raw})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.SortStableFunc(out, func(a, b kept) int { return strings.Count(a.dn, ",") - strings.Count(b.dn, ",") })
	return out
}

// again makes a directory what it was.
func again(t *testing.T, d *ldap.Directory, was []kept, bases ...string) {
	t.Helper()
	for _, e := range slices.Backward(all(t, d, bases...)) {
		if !slices.Contains(bases, e.dn) {
			if err := d.Delete(t.Context(), e.dn); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, e := range was {
		if !slices.Contains(bases, e.dn) {
			if err := d.Add(t.Context(), e.dn, e.raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestResume ends a run at each of its writes in turn, as a tool that is killed
// or a server that goes away does: before the server has the write, and after it
// has done it. The same request, made by another editor, comes to what the
// undisturbed run does, to the last value.
func TestResume(t *testing.T) {
	tree := fixture.Tree("example.org", 4, 0)
	lists := func(t *testing.T, ed *edit.Editor) {
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "other.example", Values: edit.Values{"mail-host": {"pair1"}}})
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "one@example.org", Values: edit.Values{
			"member": {"u0001@example.org", "u0002@example.org"}, "moderator": {"ldap:///uid=u0001,ou=people," + base},
		}})
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "two@example.org", Values: edit.Values{
			"member": {"one@example.org", "ldap:///ou=people," + base + "??one?(uid=u*)"},
		}})
		do(t, ed, edit.Request{Op: edit.Set, Kind: edit.User, Name: "u0001@example.org", Values: edit.Values{"attr:description": {"of old"}}})
	}
	aliases := func(t *testing.T, ed *edit.Editor) {
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"alias": {"market.test", "plaza.test"}}})
	}
	rename := func(kind edit.Kind, name, to string, uid ...string) edit.Request {
		return edit.Request{Op: edit.Rename, Kind: kind, Name: name, To: to, Values: edit.Values{"uid": uid}, NewMailbox: true}
	}
	for name, tt := range map[string]struct {
		ldif   []byte
		preset string
		setUp  func(t *testing.T, ed *edit.Editor)
		req    edit.Request
		least  int64 // writes
	}{
		"user":                     {tree, "", lists, rename(edit.User, "u0001@example.org", "eva@example.org", "eva"), 5},
		"user into another domain": {tree, "", lists, rename(edit.User, "u0002@example.org", "eva@other.example"), 5},
		"group":                    {tree, "", lists, rename(edit.Group, "one@example.org", "first@example.org"), 5},
		"domain":                   {tree, "", lists, rename(edit.Domain, "example.org", "new.example"), 12},
		"domain by name":           {tree, "", lists, rename(edit.Domain, base, "new.example"), 12},
		"node":                     {fixture.Compatible(), "sun-compat", nil, rename(edit.Domain, "example.org", "new.test"), 8},
		"node of Schema 1":         {fixture.Schema1(), "sun-schema1", aliases, rename(edit.Domain, "shop.new.test", "stall.fair.test"), 6},
		"new domain":               {tree, "", nil, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "fresh.example", Values: edit.Values{"alias": {"fresh.test"}}}, 3},
		"domain of a file":         {tree, "", nil, edit.Request{Op: edit.Put, Kind: edit.Domain, Name: "fresh.example", Values: edit.Values{"alias": {"fresh.test"}, "mail-host": {"pair1"}}}, 3},
		"node of a file":           {fixture.Compatible(), "sun-compat", nil, edit.Request{Op: edit.Put, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"alias": {"market.test", "plaza.test"}}}, 7},
		"new node":                 {fixture.Compatible(), "sun-compat", nil, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"alias": {"market.test", "plaza.test"}}}, 7},
		"domain that goes":         {tree, "", lists, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "other.example"}, 3},
		"node that goes":           {fixture.Compatible(), "sun-compat", aliases, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "shop.new.test"}, 6},
		"aliases":                  {fixture.Compatible(), "sun-compat", aliases, edit.Request{Op: edit.Set, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"alias": {"plaza.test", "bazaar.test"}}}, 3},
	} {
		for server, start := range servers {
			t.Run(server+" "+name, func(t *testing.T) {
				s := start(t, tt.ldif)
				bases := []string{fixture.Root}
				configure := func(c *ldap.Config) {
					if tt.preset != "" {
						c.Schema, _ = directory.Preset(tt.preset)
						c.DCRoot = fixture.DCRoot
					}
				}
				if tt.preset != "" {
					bases = append(bases, fixture.DCRoot)
				}
				lenient := func(c *edit.Config) { c.Pair = func(host string) (string, bool) { return host, true } }
				d := dirtest.Dial(t, s, configure)
				ed, _ := open(t, d, false, lenient)
				if tt.setUp != nil {
					tt.setUp(t, ed)
				}
				was, wasText := all(t, d, bases...), dump(t, d, bases...)
				do(t, ed, tt.req)
				want := dump(t, d, bases...)
				if want == wasText {
					t.Fatal("nothing changes")
				}
				gated, g := before(t, s)
				for n := int64(1); ; n++ {
					ended := false
					for _, late := range []bool{false, true} {
						again(t, d, was, bases...)
						if now := dump(t, d, bases...); now != wasText {
							t.Fatalf("not as it was:\n%s", difference(wasText, now))
						}
						g.seen.Store(0)
						g.late.Store(late)
						g.dead.Store(false)
						g.kill.Store(n)
						ended = killed(t, gated, g, tt.req, configure, lenient)
						half := dump(t, d, bases...)
						ed, _ := open(t, d, false, lenient)
						_, err := ed.Do(t.Context(), tt.req)
						if half == want && (errors.Is(err, ldap.ErrExists) || errors.Is(err, directory.ErrNotFound)) {
							err = nil // it had been done
						}
						if now := dump(t, d, bases...); err != nil || now != want {
							t.Errorf("write %d, late %v: %v\nhalf:\n%s\nend:\n%s", n, late, err, difference(wasText, half), difference(want, now))
						}
					}
					if ended {
						if n <= tt.least {
							t.Errorf("only %d writes", n-1)
						}
						break
					}
				}
			})
		}
	}
}

// killed makes a request until the gate ends everything, and reports whether it
// had ended before.
func killed(t *testing.T, s dirtest.Server, g *gate, req edit.Request, configure func(*ldap.Config), lenient func(*edit.Config)) bool {
	t.Helper()
	var done bool
	t.Run(fmt.Sprint(g.kill.Load()), func(t *testing.T) { // which closes the connections
		ed, _ := open(t, dirtest.Dial(t, s, configure), false, lenient)
		_, err := ed.Do(t.Context(), req)
		if g.dead.Load() && err == nil {
			t.Error("killed, and no error")
		}
		done = err == nil
		if !g.dead.Load() && err != nil {
			t.Error(err)
		}
	})
	return done
}
