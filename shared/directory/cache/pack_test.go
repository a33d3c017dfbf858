package cache

import (
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
)

// people is a directory of as many users as are asked for, with the attributes
// that most have, each string by itself as it comes from the wire.
type people struct {
	directory.Directory
	schema directory.Schema
}

func (p *people) Lookup(_ context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	var raw directory.Attributes
	for _, line := range strings.Fields(`objectClass=inetOrgPerson objectClass=inetUser objectClass=inetLocalMailRecipient
		objectClass=inetMailUser uid=UID mail=UID@example.org mailHost=pair1.example.org mailDeliveryOption=mailbox
		inetUserStatus=active mailUserStatus=active mailQuota=1073741824 preferredLanguage=de
		entryCSN=20261126181500.123456Z#000000#001#000000`) {
		name, value, _ := strings.Cut(strings.ReplaceAll(line, "UID", a.Local), "=")
		if n := len(raw); n > 0 && raw[n-1].Name == strings.ToLower(name) {
			raw[n-1].Values = append(raw[n-1].Values, strings.Clone(value))
		} else {
			raw = append(raw, directory.Attribute{Name: strings.ToLower(name), Values: []string{strings.Clone(value)}})
		}
	}
	e := p.schema.ReadEntry("uid="+a.Local+",ou=people,o=example.org,o=isp", raw)
	e.Fetched = time.Now()
	return &directory.Answer{Entries: []*directory.Entry{e.In(d)}}, nil
}

var org = &directory.Domain{Name: "example.org"}

func (p *people) ask(tb testing.TB, d directory.Directory, n int) *directory.Answer {
	tb.Helper()
	ans, err := d.Lookup(context.Background(), org, mail.Address{Local: fmt.Sprintf("u%07d", n), Domain: org.Name})
	if err != nil {
		tb.Fatal(err)
	}
	return ans
}

// TestPackedSize: a user who is remembered takes little, all included.
func TestPackedSize(t *testing.T) {
	const users = 20_000
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for name, tt := range map[string]struct {
		packed bool
		most   int
	}{"packed": {true, 800}, "whole": {false, 3000}} {
		p := &people{schema: directory.SunSchema2()}
		cfg := Config{}
		if tt.packed {
			cfg.Schema = &p.schema
		}
		c := New(p, cfg)
		before := live()
		for n := range users {
			p.ask(t, c, n)
		}
		heap := int(live()-before) / users
		counted, outside := 0, 0
		for i := range c.addresses.shards {
			counted += c.addresses.shards[i].bytes
			outside += len(c.addresses.shards[i].block.b)
		}
		used := heap + outside/users
		t.Logf("%s: %d octets an answer, %d of them on the heap, counted as %d", name, used, heap, counted/users)
		if tt.packed && heap > tt.most/4 {
			t.Errorf("%s: %d octets of an answer are on the heap", name, heap)
		}
		if used > tt.most || used < 100 {
			t.Errorf("%s: %d octets an answer, at most %d", name, used, tt.most)
		}
		if counted/users > 2*used || 2*counted/users < used {
			t.Errorf("%s: %d octets are counted as %d", name, used, counted/users)
		}
		if hit := p.ask(t, c, 1); hit.Entries[0].UID != "u0000001" || c.Stats().Hits != 1 {
			t.Errorf("%s: %+v", name, c.Stats())
		}
	}
}

// TestPackedSame: what is read from a packed answer is what was packed.
func TestPackedSame(t *testing.T) {
	schema := directory.SunSchema2()
	c := New(dirtest.Dial(t, dirtest.Embedded(t, fixture.Schema2())), Config{Schema: &schema})
	// Times lose their monotonic reading, and are compared apart.
	strip := func(list ...*directory.Entry) (out []directory.Entry) {
		for _, e := range list {
			plain := *e
			if plain.Fetched.IsZero() || time.Since(plain.Fetched) > time.Minute {
				t.Errorf("%s: of %v", e.DN, e.Fetched)
			}
			plain.Fetched = time.Time{}
			out = append(out, plain)
		}
		return out
	}
	for _, address := range []string{
		"ana@example.org", "bob+X@example.net", "staff@example.org", "twice@example.org", "whoever@all.example", "bob@example.com",
	} {
		first, err := ask(t, c, address)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ask(t, c, address)
		if err != nil || again == first {
			t.Fatalf("%s: %v; from the cache: %v", address, err, again != first)
		}
		a, b := *first, *again
		if x, y := strip(a.Entries...), strip(b.Entries...); !reflect.DeepEqual(x, y) {
			t.Errorf("%s:\n%+v\n%+v", address, x, y)
		}
		if a.Detail != b.Detail || a.CatchAll != b.CatchAll || a.Entries[0].Domain != b.Entries[0].Domain {
			t.Errorf("%s: %+v, %+v", address, a, b)
		}
	}
	dn := "uid=eve,ou=people," + fixture.Base("example.org")
	one, err := c.Entry(t.Context(), dn)
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.Entry(t.Context(), dn)
	if err != nil || one == two || !reflect.DeepEqual(strip(one), strip(two)) {
		t.Errorf("%v\n%+v\n%+v", err, one, two)
	}
}

// TestManyNames: attributes beyond those that have a number are remembered too.
func TestManyNames(t *testing.T) {
	schema := directory.SunSchema2()
	p := newPacking(&schema)
	var raw directory.Attributes
	for n := range maxNames + 100 {
		raw = append(raw, directory.Attribute{Name: fmt.Sprintf("x-%d", n), Values: []string{fmt.Sprint(n), ""}})
	}
	for range 2 {
		k, ok := p.pack(&directory.Answer{Entries: []*directory.Entry{{DN: "uid=x", Raw: raw}}})
		if !ok {
			t.Fatal("not packed")
		}
		if got := p.open(k).Entries[0].Raw; !reflect.DeepEqual(got, raw) {
			t.Errorf("%d attributes, not %d", len(got), len(raw))
		}
	}
}

func BenchmarkPackedHit(b *testing.B) {
	p := &people{schema: directory.SunSchema2()}
	c := New(p, Config{Schema: &p.schema})
	p.ask(b, c, 1)
	b.ReportAllocs()
	for b.Loop() {
		p.ask(b, c, 1)
	}
}
