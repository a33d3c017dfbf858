package expand

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	trees "github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
)

// weighed is a directory that looks now and then at how much memory is in use
// while its answers are gone through.
type weighed struct {
	directory.Directory
	mu   sync.Mutex // guards what follows
	n    int
	peak uint64
}

func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (d *weighed) weigh() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.n++; d.n%2500 == 0 {
		d.peak = max(d.peak, live())
	}
}

func (d *weighed) Search(ctx context.Context, url string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		for e, err := range d.Directory.Search(ctx, url, limit) {
			d.weigh()
			if !yield(e, err) {
				return
			}
		}
	}
}

func (d *weighed) Entry(ctx context.Context, dn string) (*directory.Entry, error) {
	d.weigh()
	return d.Directory.Entry(ctx, dn)
}

// A list of 50,000 takes the memory of one piece and of what the directory is
// read in: some 3 MB by a search, and the names in the list's own entry besides
// when it has them, some 7 MB. The cache comes on top, with what its
// configuration gives it.
func TestFiftyThousand(t *testing.T) {
	const members = 50_000
	base := trees.Base(dirtest.Domain)
	tree := fmt.Appendf(trees.Tree(dirtest.Domain, members, 2), `dn: cn=bysearch,ou=groups,%[1]s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: bysearch
mail: bysearch@example.org
uniqueMember: uid=u0001,ou=people,%[1]s
mgrpDeliverTo: ldap:///ou=people,%[1]s??sub?(mail=u*)

dn: cn=byname,ou=groups,%[1]s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: byname
mail: byname@example.org
`, base)
	var names strings.Builder
	for i := range members {
		fmt.Fprintf(&names, "uniqueMember: uid=%s,ou=people,%s\n", trees.UID(i+1), base)
	}
	tree = append(append(tree, names.String()...), '\n')
	under := dirtest.Dial(t, dirtest.OpenLDAP(t, tree), patient)
	tree, names = nil, strings.Builder{}
	d := &weighed{Directory: cache.New(under, cache.Config{Timeout: time.Minute, Bytes: 1 << 20})}
	x, err := New(Config{Directory: d, Pair: Pairs("pair1", "pair2")})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		pieces int // that are asked for; reading 50,000 names takes seconds
		most   uint64
	}{"bysearch": {10, 8 << 20}, "byname": {1, 24 << 20}} {
		t.Run(name, func(t *testing.T) {
			r := mail.Recipient{Address: mail.Address{Local: name, Domain: dirtest.Domain}}
			rs, err := x.Rcpt(t.Context(), &mail.Envelope{}, r)
			if err != nil || len(rs) != 1 || rs[0].Channel != mail.ChannelReprocess {
				t.Fatalf("%q, %v", show(rs), err)
			}
			d.peak = 0
			before := live()
			start := time.Now()
			got := 0
			for range tt.pieces {
				if rs, err = comeBack(t, x, &mail.Envelope{}, rs[len(rs)-1]); err != nil {
					t.Fatal(err)
				}
				for _, f := range rs {
					if f.Channel == mail.ChannelLMTP {
						got++
					}
				}
			}
			last := rs[len(rs)-1].Channel
			if all := tt.pieces == 10; got != tt.pieces*members/10 || (last == mail.ChannelReprocess) == all {
				t.Errorf("%d of %d members in %d pieces, the last for %s", got, members, tt.pieces, last)
			}
			used := d.peak - min(d.peak, before)
			t.Logf("%d pieces in %v: %d KB in use at most", tt.pieces, time.Since(start), used>>10)
			if used > tt.most || d.peak == 0 {
				t.Errorf("%d KB in use, more than %d", used>>10, tt.most>>10)
			}
		})
	}
}

// TestListsShareTheLimit: however lists are nested, no more is held while the
// client waits than one list may have; what does not fit goes on by itself, and
// nobody is missed.
func TestListsShareTheLimit(t *testing.T) {
	d := fixture()
	top := group()
	for l := range 4 {
		inner := group()
		inner.DN = fmt.Sprintf("cn=part%d", l)
		for i := range 8 {
			inner.MemberAddresses = append(inner.MemberAddresses, fmt.Sprintf("n%d@out%d.test", i, l))
		}
		name := fmt.Sprintf("part%d@example.test", l)
		inner.Mail = name
		d.users[name] = []*directory.Entry{inner}
		top.MemberAddresses = append(top.MemberAddresses, name)
	}
	d.users["top@example.test"] = []*directory.Entry{top}
	x, err := New(Config{Directory: d, ListLimit: 20, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	rs, err := x.Rcpt(t.Context(), &mail.Envelope{}, mail.Recipient{Address: mail.Address{Local: "top", Domain: "example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	final, later := map[string]bool{}, 0
	for _, r := range rs {
		if r.Channel != mail.ChannelReprocess {
			final[r.Address.String()] = true
			continue
		}
		later++
		more, err := comeBack(t, x, &mail.Envelope{}, r)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range more {
			final[m.Address.String()] = true
		}
	}
	if len(rs) != 18 || later != 2 || len(final) != 32 {
		t.Errorf("%d results, %d of them later, %d in all", len(rs), later, len(final))
	}
}

// BenchmarkList expands the fixture's list of 1,000 with everything cached.
func BenchmarkList(b *testing.B) {
	d := cache.New(dirtest.Dial(b, dirtest.Embedded(b, dirtest.Tree())), cache.Config{})
	x, err := New(Config{Directory: d, Pair: Pairs("pair1", "pair2", "pair3")})
	if err != nil {
		b.Fatal(err)
	}
	r := mail.Recipient{Address: mail.Address{Local: "list", Domain: "example.org"}}
	expand := func() {
		if rs, err := x.Rcpt(context.Background(), nil, r); err != nil || len(rs) != 1000 {
			b.Fatal(len(rs), err)
		}
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			d.Flush()
			expand()
		}
	})
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			expand()
		}
	})
}
