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

// paged is a SearchResultDone with the cookie of the next page.
func (p *peer) paged(id int64, code int64, cookie string) {
	var w ber.Encoder
	msg := w.Begin(ber.TagSequence)
	w.Integer(ber.TagInteger, id)
	op := w.Begin(opSearchDone)
	done(code, "")(&w)
	w.End(op)
	appendPaging(&w, &request{page: 1, cookie: []byte(cookie)})
	w.End(msg)
	_, _ = p.nc.Write(w.B)
}

// pages answers each request on a connection with the next of steps, then ends
// it. A search for the base of something finds it.
type pages []func(p *peer, id int64)

func (s pages) serve(nc net.Conn) {
	defer nc.Close()
	p := &peer{nc, bufio.NewReader(nc)}
	for _, step := range s {
		id, _, err := p.request()
		if err != nil {
			return
		}
		step(p, id)
	}
	_, _, _ = p.request() // the client's end
}

func page(cookie string, dns ...string) func(p *peer, id int64) {
	return func(p *peer, id int64) {
		for _, dn := range dns {
			p.send(id, opSearchEntry, entry(dn, "x@x.test"))
		}
		p.paged(id, 0, cookie)
	}
}

func hangUp(p *peer, _ int64) { p.nc.Close() }

// scripted is a Directory whose servers s1, s2 ... answer as scripts say.
func scripted(t *testing.T, scripts map[string]pages, configure func(*Config)) *Directory {
	t.Helper()
	var wg sync.WaitGroup
	cfg := Config{Base: "o=isp", RetryMin: 24 * time.Hour, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
		s, ok := scripts[addr[:2]]
		if !ok {
			return nil, errors.New("refused")
		}
		here, there := net.Pipe()
		wg.Go(func() { s.serve(there) })
		return here, nil
	}}
	for i := range len(scripts) {
		cfg.Servers = append(cfg.Servers, fmt.Sprintf("ldap://s%d", i+1))
	}
	configure(&cfg)
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); wg.Wait() })
	return d
}

// TestStream: entries are an answer only when the last page has come.
func TestStream(t *testing.T) {
	for name, tt := range map[string]struct {
		first, second pages
		found         string
		err           error
	}{
		"two pages": {first: pages{page("c1", "uid=a", "uid=b"), page("", "uid=c")}, found: "a b c"},
		"without a control at the end": {first: pages{page("c1", "uid=a"), func(p *peer, id int64) {
			p.send(id, opSearchDone, done(0, ""))
		}}, found: "a"},
		"an empty page between": {first: pages{page("c1", "uid=a"), page("c2"), page("", "uid=b")}, found: "a b"},
		"ends before the first": {first: pages{hangUp}, second: pages{page("", "uid=z")}, found: "z"},
		"ends in the middle":    {first: pages{page("c1", "uid=a"), hangUp}, second: pages{page("", "uid=z")}, found: "a", err: directory.ErrIncomplete},
		"gone in the middle": {first: pages{page("c1", "uid=a"), func(p *peer, id int64) {
			p.send(id, opSearchDone, done(ldap.LDAPResultNoSuchObject, "o=isp"))
		}}, found: "a", err: directory.ErrIncomplete},
		"size limit": {first: pages{func(p *peer, id int64) {
			p.send(id, opSearchEntry, entry("uid=a"))
			p.paged(id, ldap.LDAPResultSizeLimitExceeded, "")
		}}, err: directory.ErrIncomplete},
		"referral": {first: pages{page("c1", "uid=a"), func(p *peer, id int64) {
			p.send(id, opSearchRef, func(w *ber.Encoder) { w.Octets(ber.TagOctets, "ldap://elsewhere") })
			p.paged(id, 0, "")
		}}, found: "a", err: directory.ErrIncomplete},
		"no paging": {first: pages{func(p *peer, id int64) {
			p.send(id, opSearchDone, done(ldap.LDAPResultUnavailableCriticalExtension, ""))
		}}, err: errors.New("12")},
		"more than a page": {first: pages{page("", "uid=a", "uid=b", "uid=c", "uid=d")}, second: pages{page("", "uid=z")}, found: "z"},
		"broken control": {first: pages{func(p *peer, id int64) {
			var w ber.Encoder
			msg := w.Begin(ber.TagSequence)
			w.Integer(ber.TagInteger, id)
			op := w.Begin(opSearchDone)
			done(0, "")(&w)
			w.End(op)
			w.Octets(tagControls, "\x30\x7f")
			w.End(msg)
			_, _ = p.nc.Write(w.B)
		}}, second: pages{page("", "uid=z")}, found: "z"},
		"no answer": {first: pages{func(*peer, int64) {}}, second: pages{page("", "uid=z")}, found: "z"},
		"no answer in the middle": {
			first: pages{page("c1", "uid=a"), func(*peer, int64) {}}, second: pages{page("", "uid=z")}, found: "a", err: directory.ErrIncomplete,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := scripted(t, map[string]pages{"s1": tt.first, "s2": tt.second}, func(c *Config) { c.PageSize = 3 })
				var got []string
				var last error
				for e, err := range d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100) {
					if last = err; err == nil {
						got = append(got, strings.TrimPrefix(e.DN, "uid="))
					}
				}
				if strings.Join(got, " ") != tt.found {
					t.Errorf("found %q, want %q", got, tt.found)
				}
				switch {
				case tt.err == nil && last == nil, tt.err != nil && errors.Is(last, tt.err):
				case tt.err != nil && last != nil && !errors.Is(tt.err, directory.ErrIncomplete) && strings.Contains(last.Error(), tt.err.Error()):
				default:
					t.Errorf("%v, want %v", last, tt.err)
				}
			})
		})
	}
}

// TestStreamEmpty: page after page of nothing ends.
func TestStreamEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s pages
		for i := range 2 * maxEmpty {
			s = append(s, page(fmt.Sprint("c", i)))
		}
		d := scripted(t, map[string]pages{"s1": s}, func(*Config) {})
		list, err := directory.Collect(d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100))
		if !errors.Is(err, directory.ErrIncomplete) {
			t.Errorf("%d entries, %v", len(list), err)
		}
	})
}

// TestStreamTime: whoever goes through the entries may take long, and who waits
// for a connection that somebody keeps is told so. Neither is the server's
// fault.
func TestStreamTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := scripted(t, map[string]pages{"s1": {page("c1", "uid=a"), page("", "uid=b")}}, func(c *Config) { c.BindConns = 1 })
		n := 0
		for _, err := range d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			time.Sleep(time.Hour)
			start := time.Now()
			_, err := directory.Collect(d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100))
			if !errors.Is(err, directory.ErrUnavailable) || time.Since(start) != d.cfg.Timeout {
				t.Errorf("without a free connection: %v after %v", err, time.Since(start))
			}
		}
		if n != 2 || !d.pool.available() || d.pool.servers[0].timeouts.Load() != 0 {
			t.Errorf("%d entries; server in use: %v", n, d.pool.available())
		}
	})
}

// TestStreamClosed: a directory that is closed ends what is under way, and its
// goroutines have ended by then.
func TestStreamClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := scripted(t, map[string]pages{"s1": {page("c1", "uid=a"), page("", "uid=b")}}, func(*Config) {})
		n := 0
		var last error
		for _, err := range d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100) {
			if last = err; err == nil {
				n++
				d.Close()
			}
		}
		if n != 1 || !errors.Is(last, directory.ErrIncomplete) {
			t.Errorf("%d entries, %v", n, last)
		}
		if _, err := directory.Collect(d.Search(t.Context(), "ldap:///o=isp??sub?(mail=*)", 100)); !errors.Is(err, directory.ErrUnavailable) {
			t.Errorf("afterwards: %v", err)
		}
		s := d.pool.servers[0]
		if l, err := s.line(t.Context()); err == nil || len(s.lines) > 0 {
			t.Errorf("a connection afterwards: %v, %v", l, err)
		}
	})
}
