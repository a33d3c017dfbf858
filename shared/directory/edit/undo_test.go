package edit_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// writes are the operations that change a directory, and the tags of their
// answers (RFC 4511 4).
var writes = map[byte]byte{0x66: 0x67, 0x68: 0x69, 0x4a: 0x6b, 0x6c: 0x6d}

// gate stands between a client and a directory server and refuses writes, or ends
// all connections.
type gate struct {
	from, to atomic.Int64 // the writes that are refused, counted from 1; to is not
	seen     atomic.Int64
	kill     atomic.Int64 // the write with which all ends; 0 is none
	late     atomic.Bool  // once the server has done it
	dead     atomic.Bool
	// asked is called before each write, when the server has done those before it.
	asked atomic.Pointer[func(n int64)]
}

// refuse makes the gate count anew and refuse the writes from the n-th on, many
// of them.
func (g *gate) refuse(n, many int64) {
	g.from.Store(n)
	g.to.Store(n + many)
	g.seen.Store(0)
}

// before puts a gate before a server.
func before(t *testing.T, s dirtest.Server) (dirtest.Server, *gate) {
	t.Helper()
	network, address := "unix", ""
	if host, ok := strings.CutPrefix(s.URL, "ldap://"); ok {
		network, address = "tcp", host
	} else if path, err := url.QueryUnescape(strings.TrimPrefix(s.URL, "ldapi://")); err == nil && path != s.URL {
		address = path
	} else {
		t.Fatalf("%s is no socket", s.URL)
	}
	own := filepath.Join(t.TempDir(), "g")
	l, err := net.Listen("unix", own)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { g.pass(c, network, address) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() }) // after the client has closed its connections
	s.URL = "ldapi://" + url.QueryEscape(own)
	return s, g
}

// pass carries one connection.
func (g *gate) pass(client net.Conn, network, address string) {
	defer client.Close()
	server, err := net.Dial(network, address)
	if err != nil || g.dead.Load() {
		return
	}
	defer server.Close()
	var mu sync.Mutex // of writing to the client
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		frames(server, func(body []byte) error {
			if g.dead.Load() {
				return net.ErrClosed
			}
			mu.Lock()
			defer mu.Unlock()
			_, err := client.Write(frame(body))
			return err
		})
	}()
	frames(client, func(body []byte) error {
		id, rest, err := ber.ExpectInt(body, 0x02)
		if err != nil {
			return err
		}
		if g.dead.Load() {
			return net.ErrClosed
		}
		answer, writing := writes[rest[0]]
		if n := g.seen.Load() + 1; writing {
			g.seen.Store(n)
			if f := g.asked.Load(); f != nil {
				(*f)(n)
			}
			if n == g.kill.Load() {
				g.dead.Store(true)
				if g.late.Load() {
					if _, err := server.Write(frame(body)); err == nil {
						<-done // the answer came, or never will
					}
				}
				return net.ErrClosed
			}
			if n >= g.from.Load() && n < g.to.Load() {
				mu.Lock()
				defer mu.Unlock()
				text := "\x0a\x01\x35\x04\x00\x04\x00" // unwillingToPerform
				_, err := client.Write(frame(fmt.Appendf(nil, "\x02\x04%s%c%c%s", binary.BigEndian.AppendUint32(nil, uint32(id)), answer, len(text), text)))
				return err
			}
		}
		_, err = server.Write(frame(body))
		return err
	})
	server.Close()
	<-done
}

func frames(c net.Conn, f func(body []byte) error) {
	r := bufio.NewReader(c)
	for {
		body, err := ber.ReadFrame(r, nil, 1<<24)
		if err != nil || f(body) != nil {
			return
		}
	}
}

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0x30, 0x84}, uint32(len(body))), body...)
}

// dump is all that a directory holds below bases.
func dump(t *testing.T, d *ldap.Directory, bases ...string) string {
	t.Helper()
	var out []string
	for _, b := range bases {
		var dns []string
		err := d.Scan(t.Context(), b, ldap.Everything, []string{"objectClass"}, func(dn string, _ directory.Attributes) error {
			dns = append(dns, dn)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, dn := range dns {
			_, raw, err := d.Raw(t.Context(), dn)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range raw {
				switch strings.ToLower(a.Name) {
				case "entrycsn", "modifytimestamp", "modifiersname":
					continue
				}
				values := slices.Sorted(slices.Values(a.Values))
				out = append(out, fmt.Sprintf("%s\t%s: %q", strings.ToLower(dn), strings.ToLower(a.Name), values))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestRenameIsWhole refuses each write of a rename in turn, on OpenLDAP: what
// had been changed before it is as it was, to the last value, and the same
// request succeeds when nothing is refused any more.
func TestRenameIsWhole(t *testing.T) {
	tree := func() []byte { return fixture.Tree("example.org", 4, 0) }
	lists := func(t *testing.T, ed *edit.Editor) {
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "one@example.org", Values: edit.Values{
			"member": {"u0001@example.org", "u0002@example.org"}, "moderator": {"ldap:///uid=u0001,ou=people," + base},
		}})
		do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "two@example.org", Values: edit.Values{
			"member": {"one@example.org", "ldap:///ou=people," + base + "??one?(uid=u*)"},
		}})
	}
	for name, tt := range map[string]struct {
		ldif   []byte
		preset string
		bases  []string
		setUp  func(t *testing.T, ed *edit.Editor)
		req    edit.Request
		least  int // writes
	}{
		"user": {tree(), "", []string{fixture.Root}, lists, edit.Request{
			Op: edit.Rename, Kind: edit.User, Name: "u0001@example.org", To: "eva@example.org", Values: edit.Values{"uid": {"eva"}}, NewMailbox: true,
		}, 3},
		"group": {tree(), "", []string{fixture.Root}, lists, edit.Request{
			Op: edit.Rename, Kind: edit.Group, Name: "one@example.org", To: "first@example.org",
		}, 3},
		"domain": {tree(), "", []string{fixture.Root}, lists, edit.Request{
			Op: edit.Rename, Kind: edit.Domain, Name: "example.org", To: "new.example", NewMailbox: true,
		}, 8},
		"node": {fixture.Compatible(), "sun-compat", []string{fixture.Root, fixture.DCRoot}, nil, edit.Request{
			Op: edit.Rename, Kind: edit.Domain, Name: "example.org", To: "new.test", NewMailbox: true,
		}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			s, g := before(t, dirtest.OpenLDAP(t, tt.ldif))
			d := dirtest.Dial(t, s, func(c *ldap.Config) {
				if tt.preset != "" {
					c.Schema, _ = directory.Preset(tt.preset)
					c.DCRoot = fixture.DCRoot
				}
			})
			ed, _ := open(t, d, false, func(c *edit.Config) { c.Pair = func(host string) (string, bool) { return host, true } })
			if tt.setUp != nil {
				tt.setUp(t, ed)
			}
			was := dump(t, d, tt.bases...)
			refusals := 0
			for n := int64(1); ; n++ {
				g.refuse(n, 1)
				_, err := ed.Do(t.Context(), tt.req)
				if err == nil {
					break
				}
				if refusals++; refusals > 100 {
					t.Fatal(err)
				}
				if g.seen.Load() < n || strings.Contains(err.Error(), "not put back") {
					t.Fatalf("write %d: %v", n, err)
				}
				if now := dump(t, d, tt.bases...); now != was {
					t.Errorf("write %d refused: %v\n%s", n, err, difference(was, now))
				}
			}
			if refusals < tt.least {
				t.Errorf("only %d writes", refusals)
			}
			if tt.preset == "" { // the other fixture has faults of its own
				clean(t, d)
			}
		})
	}
}

// difference is the lines that only one of two texts has.
func difference(was, now string) string {
	var out []string
	a, b := strings.Split(was, "\n"), strings.Split(now, "\n")
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// TestRenameNotPutBack: when the server refuses everything from a write on, the
// error names what is not as it was.
func TestRenameNotPutBack(t *testing.T) {
	s, g := before(t, dirtest.OpenLDAP(t, fixture.Tree("example.org", 4, 0)))
	d := dirtest.Dial(t, s)
	ed, _ := open(t, d, false)
	g.refuse(4, 1000)
	_, err := ed.Do(t.Context(), edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "example.org", To: "new.example", NewMailbox: true})
	if err == nil || !strings.Contains(err.Error(), "not put back") || !strings.Contains(err.Error(), "rename of "+base) {
		t.Errorf("%v", err)
	}
}
