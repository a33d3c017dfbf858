package ldap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// peer is the server's end of a line.
type peer struct {
	nc net.Conn
	r  *bufio.Reader
}

// request reads the next request: its number and tag.
func (p *peer) request() (id int64, tag byte, err error) {
	body, err := ber.ReadFrame(p.r, nil, 1<<20)
	if err != nil {
		return 0, 0, err
	}
	id, rest, err := ber.ExpectInt(body, ber.TagInteger)
	if err != nil {
		return 0, 0, err
	}
	op, _, err := ber.Next(rest)
	return id, op.Tag, err
}

func (p *peer) send(id int64, op byte, body func(w *ber.Encoder)) {
	var w ber.Encoder
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	o := w.Begin(op)
	body(&w)
	w.End(o)
	w.End(msg)
	_, _ = p.nc.Write(w.B) // the test sees what does not arrive
}

func entry(dn string, values ...string) func(w *ber.Encoder) {
	return func(w *ber.Encoder) {
		w.Octets(ber.TagOctets, dn)
		list := w.Begin(ber.TagSequence)
		part := w.Begin(ber.TagSequence)
		w.Octets(ber.TagOctets, "Mail")
		set := w.Begin(ber.TagSet)
		for _, v := range values {
			w.Octets(ber.TagOctets, v)
		}
		w.End(set)
		w.End(part)
		w.End(list)
	}
}

func done(code int64, matched string) func(w *ber.Encoder) {
	return func(w *ber.Encoder) {
		w.Integer(ber.TagEnumerated, code)
		w.Octets(ber.TagOctets, matched)
		w.Octets(ber.TagOctets, "text")
	}
}

// talk makes a line and lets serve answer at its other end.
func talk(t *testing.T, timeout time.Duration, serve func(p *peer)) *line {
	t.Helper()
	here, there := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { serve(&peer{there, bufio.NewReader(there)}) })
	l := newLine(here, 0, timeout)
	wg.Go(func() { l.read(bufio.NewReader(here)) })
	t.Cleanup(func() {
		l.Close()
		there.Close()
		wg.Wait()
	})
	return l
}

func (l *line) one(ctx context.Context) ([]result, error) {
	return l.search(ctx, "o=isp", ldap.ScopeWholeSubtree, everything, []string{"mail"}, 2)
}

// TestLineAnswers: only a SearchResultDone with success makes entries an answer.
func TestLineAnswers(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(p *peer, id int64)
		found  string // DNs and values, or the error's
		code   int    // of the error, -1 for one that is no LDAP result
		open   bool   // the line is of use afterwards
	}{
		"an entry": {func(p *peer, id int64) {
			p.send(id, opSearchEntry, entry("uid=a", "a@x", "b@x"))
			p.send(id, opSearchDone, done(0, ""))
		}, "uid=a mail [a@x b@x]", 0, true},
		"nothing":        {func(p *peer, id int64) { p.send(id, opSearchDone, done(0, "")) }, "", 0, true},
		"no such object": {func(p *peer, id int64) { p.send(id, opSearchDone, done(32, "o=isp")) }, "o=isp", ldap.LDAPResultNoSuchObject, true},
		"another's entry": {func(p *peer, id int64) {
			p.send(id+5, opSearchEntry, entry("uid=a"))
			p.send(id, opSearchDone, done(0, ""))
		}, "", 0, true},
		"cut by a limit": {func(p *peer, id int64) {
			p.send(id, opSearchEntry, entry("uid=a"))
			p.send(id, opSearchDone, done(4, ""))
		}, "text", ldap.LDAPResultSizeLimitExceeded, true},
		"a referral": {func(p *peer, id int64) {
			p.send(id, opSearchRef, func(w *ber.Encoder) { w.Octets(ber.TagOctets, "ldap://elsewhere") })
			p.send(id, opSearchDone, done(0, ""))
		}, "referral", ldap.LDAPResultReferral, true},
		"more than asked for": {func(p *peer, id int64) {
			for range 3 {
				p.send(id, opSearchEntry, entry("uid=a"))
			}
		}, "more entries", ldap.ErrorNetwork, false},
		"end in the middle": {func(p *peer, id int64) { p.send(id, opSearchEntry, entry("uid=a")); p.nc.Close() }, "EOF", ldap.ErrorNetwork, false},
		"a notice":          {func(p *peer, id int64) { p.send(0, opExtendedDone, done(52, "")) }, "ends the connection", ldap.ErrorNetwork, false},
		"garbage":           {func(p *peer, id int64) { fmt.Fprint(p.nc, "HTTP/1.0 400 Bad Request\r\n\r\n") }, "BER", ldap.ErrorNetwork, false},
		"a huge frame":      {func(p *peer, id int64) { fmt.Fprint(p.nc, "\x30\x84\x7f\xff\xff\xff") }, "too long", ldap.ErrorNetwork, false},
		"a broken entry": {func(p *peer, id int64) {
			p.send(id, opSearchEntry, func(w *ber.Encoder) { w.Octets(ber.TagOctets, "uid=a"); w.Octets(ber.TagSequence, "\x30\x7f") })
		}, "BER", ldap.ErrorNetwork, false},
		"a broken result": {func(p *peer, id int64) {
			p.send(id, opSearchDone, func(w *ber.Encoder) { w.Octets(ber.TagOctets, "") })
		}, "BER", ldap.ErrorNetwork, false},
		"another answer": {func(p *peer, id int64) { p.send(id, opBindResponse, done(0, "")) }, "tag 0x61", ldap.ErrorNetwork, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := talk(t, 5*time.Second, func(p *peer) {
				id, tag, err := p.request()
				if err != nil || tag != opSearch {
					t.Errorf("request %d with tag %#x: %v", id, tag, err)
					return
				}
				tt.answer(p, id)
			})
			found, err := l.one(t.Context())
			if tt.code != 0 {
				var le *ldap.Error
				if !errors.As(err, &le) || int(le.ResultCode) != tt.code || !strings.Contains(err.Error()+le.MatchedDN, tt.found) {
					t.Errorf("%v, want code %d and %q", err, tt.code, tt.found)
				}
			} else {
				var got []string
				for _, e := range found {
					got = append(got, fmt.Sprintf("%s %s %v", e.DN, e.Attributes[0].Name, e.Attributes[0].Values))
				}
				if err != nil || strings.Join(got, ", ") != tt.found {
					t.Errorf("%q, %v, want %q", got, err, tt.found)
				}
			}
			if l.IsClosing() == tt.open {
				t.Errorf("closing: %v", l.IsClosing())
			}
			if !tt.open {
				if _, err := l.one(t.Context()); !ldap.IsErrorWithCode(err, ldap.ErrorNetwork) {
					t.Errorf("a search on a closed line: %v", err)
				}
			}
		})
	}
}

// TestLineTime: a search that takes too long, or that nobody waits for, is
// given up alone; an answer that comes after all goes nowhere.
func TestLineTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var abandoned []int64
		l := talk(t, time.Second, func(p *peer) {
			for {
				id, tag, err := p.request()
				switch {
				case err != nil:
					return
				case tag == opAbandon:
					abandoned = append(abandoned, id)
				case id == 1: // late
					time.AfterFunc(1500*time.Millisecond, func() {
						p.send(id, opSearchEntry, entry("uid=late"))
						p.send(id, opSearchDone, done(0, ""))
					})
				case id == 3: // never
				default:
					p.send(id, opSearchDone, done(0, ""))
				}
			}
		})
		if _, err := l.one(t.Context()); !errors.Is(err, errTimeout) {
			t.Errorf("late: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := l.one(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		time.Sleep(time.Second)
		for range 3 {
			if found, err := l.one(t.Context()); err != nil || len(found) != 0 {
				t.Errorf("afterwards: %v, %v", found, err)
			}
		}
		if len(abandoned) != 2 {
			t.Errorf("abandoned %d", abandoned)
		}
	})
}

// TestLineMany: searches at once on one line get their own answers.
func TestLineMany(t *testing.T) {
	const many = 100
	l := talk(t, 10*time.Second, func(p *peer) {
		var ids []int64
		for range many {
			id, _, err := p.request()
			if err != nil {
				return
			}
			ids = append(ids, id)
		}
		for i := len(ids) - 1; i >= 0; i-- { // in another order
			p.send(ids[i], opSearchEntry, entry(fmt.Sprint("uid=", ids[i])))
		}
		for _, id := range ids {
			p.send(id, opSearchDone, done(0, ""))
		}
	})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range many {
		wg.Go(func() {
			found, err := l.one(t.Context())
			if err != nil || len(found) != 1 {
				t.Errorf("%v, %v", found, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[found[0].DN] = true
		})
	}
	wg.Wait()
	if len(seen) != many {
		t.Errorf("%d different answers, want %d", len(seen), many)
	}
}

// TestEscape: what is put together reads back as what was put in.
func TestEscape(t *testing.T) {
	for _, v := range []string{"", "a", "*)(mail=*", `\2a`, "a,o=b", " a ", "#a", "a\x00b", "é", "\xff", "a+b=c", `"<>;`, "-a", "a.b-c_d"} {
		f, err := ldap.CompileFilter(anyEqual([]string{"mail"}, []string{v}))
		if err != nil || string(f.Bytes()[len(f.Bytes())-len(v):]) != v {
			t.Errorf("filter for %q: %v", v, err)
		}
		dn, err := ldap.ParseDN(dcName(v, "o=internet"))
		if strings.Contains(v, ".") || v == "" {
			continue
		}
		if err != nil || len(dn.RDNs) != 2 || dn.RDNs[0].Attributes[0].Value != v {
			t.Errorf("name for %q: %+v, %v", v, dn, err)
		}
	}
	// Both forms of the filter for owners are the same filter.
	attrs, values := []string{"mail", "mailAlternateAddress"}, []string{"a*@x", "(b)@x"}
	text, err := ldap.CompileFilter(both(oneEqual("o", "x"), anyEqual(attrs, values)))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprintf("%x", flat(t, text.Bytes())), fmt.Sprintf("%x", flat(t, ownersWith("o", "x", owners(attrs, values)))); a != b {
		t.Errorf("%s is not %s", b, a)
	}
}

// flat lists the primitive elements and the tags of the others.
func flat(t *testing.T, b []byte) (out []string) {
	t.Helper()
	for len(b) > 0 {
		e, rest, err := ber.Next(b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(e.Tag))
		if e.Tag&0x20 != 0 {
			out = append(out, flat(t, e.Body)...)
		} else {
			out = append(out, string(e.Body))
		}
		b = rest
	}
	return out
}

func FuzzTemplate(f *testing.F) {
	f.Add("(&$K$R)", "(uid=%U)", "ou=$U,$V", "ana", "x.test")
	f.Add("(mail=$A$$)", "(&(uid=%U)(mail=*@%V))", "$B", "*)(mail=*", "x,o=isp")
	f.Fuzz(func(t *testing.T, filter, login, base, user, domain string) {
		q := asked{
			root: "o=isp", base: "o=x,o=isp", address: user + "@" + domain, user: user, domain: domain,
			owns: anyEqual([]string{"mail"}, []string{user}), classes: ofClasses([]string{"person"}),
		}
		if u, err := parseLookupURL("ldap:///" + base + "?*?sub?" + filter); err == nil {
			_, got, err := u.search(&q)
			if err == nil {
				if _, err := ldap.CompileFilter(got); err != nil {
					t.Errorf("%q with %q is %q: %v", filter, user, got, err)
				}
			}
		}
		if got, err := loginFilter(login, user, domain, user); err == nil {
			if _, err := ldap.CompileFilter(got); err != nil {
				t.Errorf("%q with %q is %q: %v", login, user, got, err)
			}
		} else if !errors.Is(err, directory.ErrMisconfigured) {
			t.Error(err)
		}
	})
}

func FuzzReceive(f *testing.F) {
	var w ber.Encoder
	w.Integer(ber.TagInteger, 1)
	op := w.Begin(opSearchEntry)
	entry("uid=a", "a@x")(&w)
	w.End(op)
	f.Add(w.B)
	w = ber.Encoder{}
	w.Integer(ber.TagInteger, 1)
	op = w.Begin(opSearchDone)
	done(32, "o=isp")(&w)
	w.End(op)
	f.Add(w.B)
	w = ber.Encoder{}
	w.Integer(ber.TagInteger, 1)
	op = w.Begin(opSearchDone)
	done(0, "")(&w)
	w.End(op)
	appendPaging(&w, &request{page: 2, cookie: []byte("next")})
	f.Add(w.B)
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &pending{done: make(chan struct{}), limit: 2, paged: len(b)%2 == 0}
		l := &line{waiting: map[int64]*pending{1: p}, names: map[string]string{}}
		_ = l.receive(b) // must not panic
		for _, e := range p.found {
			for _, a := range e.Attributes {
				if len(e.DN)+len(a.Name) > len(b) {
					t.Errorf("%+v is longer than what was sent", e)
				}
			}
		}
	})
}
