package embedded

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	ber "github.com/go-asn1-ber/asn1-ber"

	"github.com/postern-mail/postern/shared/directory/fixture"
	wire "github.com/postern-mail/postern/shared/directory/internal/ber"
)

// requests are messages as go-ldap sends them.
func requests(f testing.TB) [][]byte {
	filters := []string{
		"(uid=u0001)", "(&(objectClass=inetMailUser)(|(mail=a@x.test)(mailAlternateAddress=a@x.test)))", "(!(uid=*))", "(cn=a*b*c)",
		"(cn:dn:caseExactMatch:=x)", "(uid>=5)", "(uid<=5)", "(sn~=x)", "(entryDN=o=isp)",
	}
	var out [][]byte
	message := func(op *ber.Packet, controls ...ldap.Control) {
		m := ber.NewSequence("")
		m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, int64(7), ""))
		m.AppendChild(op)
		if len(controls) > 0 {
			list := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "")
			for _, c := range controls {
				list.AppendChild(c.Encode())
			}
			m.AppendChild(list)
		}
		out = append(out, m.Bytes())
	}
	octets := func(s string) *ber.Packet {
		return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
	}
	for _, s := range filters {
		op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 3, nil, "")
		op.AppendChild(octets("o=isp"))
		op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, 2, ""))
		op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, 0, ""))
		op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 10, ""))
		op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 5, ""))
		op.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, false, ""))
		p, err := ldap.CompileFilter(s)
		if err != nil {
			f.Fatal(err)
		}
		op.AppendChild(p)
		attrs := ber.NewSequence("")
		attrs.AppendChild(octets("*"))
		attrs.AppendChild(octets("+"))
		op.AppendChild(attrs)
		message(op, ldap.NewControlPaging(3))
	}
	bind := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 0, nil, "")
	bind.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 3, ""))
	bind.AppendChild(octets("cn=root,o=isp"))
	bind.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "pw", ""))
	message(bind)
	attribute := func(name string, values ...string) *ber.Packet {
		a := ber.NewSequence("")
		a.AppendChild(octets(name))
		set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		for _, v := range values {
			set.AppendChild(octets(v))
		}
		a.AppendChild(set)
		return a
	}
	add := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 8, nil, "")
	add.AppendChild(octets("uid=new,o=isp"))
	list := ber.NewSequence("")
	list.AppendChild(attribute("objectClass", "person"))
	list.AppendChild(attribute("mail", "new@x.test", "n@x.test"))
	add.AppendChild(list)
	message(add)
	modify := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 6, nil, "")
	modify.AppendChild(octets("o=isp"))
	changes := ber.NewSequence("")
	for i, name := range []string{"description", "description", "o"} {
		c := ber.NewSequence("")
		c.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, int64(i), ""))
		c.AppendChild(attribute(name, "isp"))
		changes.AppendChild(c)
	}
	modify.AppendChild(changes)
	message(modify)
	rename := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 12, nil, "")
	rename.AppendChild(octets("ou=people,o=x.test,o=isp"))
	rename.AppendChild(octets("ou=staff"))
	rename.AppendChild(ber.NewBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, true, ""))
	rename.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "o=isp", ""))
	message(rename)
	message(ber.NewString(ber.ClassApplication, ber.TypePrimitive, 10, "uid=u0001,ou=people,o=x.test,o=isp", ""))
	who := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 23, nil, "")
	who.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, oidWhoAmI, ""))
	message(who)
	return out
}

// FuzzRequest gives a server with a small tree one message after another, as
// the root DN. It must not panic, and must answer with BER that others read.
func FuzzRequest(f *testing.F) {
	for _, r := range requests(f) {
		f.Add(r)
	}
	tree := fixture.Tree("x.test", 3, 1)
	var s *Server
	n := 0
	f.Fuzz(func(t *testing.T, in []byte) {
		if n%500 == 0 { // changes pile up
			var err error
			if s, err = New(Config{LDIF: tree, RootDN: "cn=root,o=isp", RootPassword: "pw"}); err != nil {
				t.Fatal(err)
			}
		}
		n++
		c := &conn{s: s, nc: &sink{}, who: "cn=root,o=isp", root: true}
		body, err := wire.ReadFrame(bufio.NewReader(bytes.NewReader(in)), nil, 1<<20)
		if err != nil {
			return
		}
		req, err := decode(body)
		if req == nil {
			return
		}
		c.answer(req, err)
		c.flush()
		out := bytes.NewReader(c.nc.(*sink).Bytes())
		for out.Len() > 0 {
			if _, err := ber.ReadPacket(out); err != nil {
				t.Fatalf("answer cannot be read: %v", err)
			}
		}
		for norm, node := range s.tree.nodes {
			if node.norm != norm || node.parent != nil && s.tree.nodes[node.parent.norm] != node.parent {
				t.Fatalf("the tree is broken at %q", norm)
			}
		}
	})
}

// sink is a connection that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error)      { return s.Buffer.Write(b) }
func (s *sink) Read(b []byte) (int, error)       { return 0, io.EOF }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) SetDeadline(time.Time) error      { return nil }
func (s *sink) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// FuzzLDIF reads LDIF, and what it wrote itself a second time: the same.
func FuzzLDIF(f *testing.F) {
	f.Add([]byte("dn: o=isp\nobjectClass: top\no: isp\ndescription:: w6Q=\n folded\n\ndn: ou=a,o=isp\nou: a\n"))
	f.Add([]byte("version: 1\n# c\ndn: o=x\nchangetype: modify\nadd: a\na: b\n-\nreplace: c\n-\ndelete: d\nd: e\n"))
	f.Add([]byte("dn: o=x\nchangetype: modrdn\nnewrdn: o=y\ndeleteoldrdn: 1\nnewsuperior: o=z\n\ndn: o=y\nchangetype: delete\n"))
	f.Add(fixture.Tree("x.test", 2, 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		lr := newLDIFReader(bytes.NewReader(in))
		for {
			rec, err := lr.next()
			if err != nil {
				break
			}
			if lr.offset > int64(len(in)) {
				t.Fatalf("offset %d of %d", lr.offset, len(in))
			}
			if rec.op != opAdd {
				continue
			}
			out := appendEntry(nil, &object{dn: rec.dn, attrs: rec.attrs})
			again, err := newLDIFReader(bytes.NewReader(out)).next()
			if err != nil {
				t.Fatalf("%v in\n%s", err, out)
			}
			same := again.dn == rec.dn && len(again.attrs) == len(rec.attrs)
			for i := 0; same && i < len(rec.attrs); i++ {
				same = slices.Equal(again.attrs[i].values, rec.attrs[i].values)
			}
			if !same {
				t.Fatalf("%+v\nbecame\n%+v", rec, again)
			}
		}
		if s, err := New(Config{LDIF: in}); err == nil {
			all := s.tree.sorted()
			if len(all) != s.Len() {
				t.Fatalf("%d of %d entries", len(all), s.Len())
			}
		}
	})
}

// FuzzNames: a normal form is its own normal form.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"o=isp", "UID=a\\, b + cn=x, O=Y", "cn=#0403616263", "a=\\20x\\20", "", ",", "cn=é;o=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := normalDN(s)
		if err != nil {
			return
		}
		if again, err := normalDN(n); err != nil || again != n {
			t.Errorf("%q: %q, then %q, %v", s, n, again, err)
		}
		rdnParts(s)
		dnParts(s)
		for parts := 0; n != ""; parts++ {
			if _, n = splitDN(n); parts > len(s) {
				t.Fatalf("%q does not end", s)
			}
		}
	})
}

func TestFailedJournal(t *testing.T) {
	path := t.TempDir() + "/journal"
	s, err := New(Config{LDIF: fixture.Tree("x.test", 2, 1), Journal: path, RootDN: "cn=root,o=isp", RootPassword: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	s.journal.f.Close() // the disk is gone
	before := s.Len()
	req := &request{op: opDelete, dn: "uid=u0002,ou=people,o=x.test,o=isp"}
	for range 2 {
		if err := s.change(req, "cn=root"); err == nil || errors.As(err, new(*resultError)) {
			t.Errorf("a change without a disk: %v", err)
		}
	}
	if s.Len() != before {
		t.Error("a change that was refused was made")
	}
	if s.journal.broken == nil {
		t.Error("the journal does not know that it failed")
	}
}

// TestCompaction: a journal with many changes is rewritten when it is opened,
// and says the same.
func TestCompaction(t *testing.T) {
	path := t.TempDir() + "/journal"
	open := func() *Server {
		s, err := New(Config{LDIF: fixture.Tree("x.test", 2, 1), Journal: path})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	s.Close()
	f, err := newAppender(path)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for i := range compactAfter + 10 {
		b = appendChanges(b, "uid=u0001,ou=people,o=x.test,o=isp", []change{{2, attribute{"description", "description", []string{strings.Repeat("x", i%7+1)}, false}}})
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s = open()
	n, _ := s.tree.get("uid=u0001,ou=people,o=x.test,o=isp")
	want := n.obj.find("description").values[0]
	s.Close()
	if fi := size(t, path); fi > int64(len(b))/2 {
		t.Errorf("%d octets after compaction", fi)
	}
	s = open()
	defer s.Close()
	n, _ = s.tree.get("uid=u0001,ou=people,o=x.test,o=isp")
	if got := n.obj.find("description").values[0]; got != want || want != strings.Repeat("x", (compactAfter+9)%7+1) {
		t.Errorf("after compaction %q, want %q", got, want)
	}
}

func TestServeEnds(t *testing.T) {
	s, err := New(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if s.Addr().String() != l.Addr().String() {
		t.Errorf("Addr: %v", s.Addr())
	}
}

// BenchmarkDecode compares our reader with the general one on the search that
// a look-up sends.
func BenchmarkDecode(b *testing.B) {
	in := requests(b)[1]
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			body, _, err := wire.Expect(in, wire.TagSequence)
			if err == nil {
				_, err = decode(body)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asn1-ber", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ber.DecodePacketErr(in); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func newAppender(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func FuzzPasswordChange(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x30\x09\x80\x01a\x81\x01b\x82\x01c"))
	f.Add([]byte("\x30\x03\x83\x01a"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePasswordChange(b)
		if err == nil && len(p.who)+len(p.old)+len(p.new) > len(b) {
			t.Errorf("%+v is more than was sent", p)
		}
	})
}
