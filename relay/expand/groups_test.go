package expand

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	trees "github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// meeting is a directory that answers for an address and for groups only when it
// has been asked for both.
type meeting struct {
	*tree
	address, groups chan struct{}
	err             error
	asked           atomic.Int32
}

func (m *meeting) Lookup(ctx context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if m.address != nil {
		close(m.address)
		select {
		case <-m.groups:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return m.tree.Lookup(ctx, d, a)
}

func (m *meeting) Groups(ctx context.Context, _ *directory.Entry) (*directory.Groups, error) {
	m.asked.Add(1)
	if m.groups != nil {
		close(m.groups)
		select {
		case <-m.address:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &directory.Groups{Addresses: []string{"Team@example.test", "group=no@example.test", "@example.test"}}, m.err
}

// TestGroupsBeside: who posts to a folder does so by groups too, which are asked
// for while the address is looked up, once, and where there is no folder not at all.
func TestGroupsBeside(t *testing.T) {
	down := errors.New("time-out")
	for name, tt := range map[string]struct {
		address, auth string
		off           bool
		err           error
		poster        string
		asked         int32
		together      bool
		fails         bool
	}{
		"folder":                 {"ann+work@example.test", "bob@example.test", false, nil, "bob@example.test anyone@example.test team@example.test no@example.test", 1, true, false},
		"no folder":              {"ann@example.test", "bob@example.test", false, nil, "", 0, false, false},
		"a stranger":             {"ann+work@example.test", "", false, nil, "", 0, false, false},
		"somebody who is gone":   {"ann+work@example.test", "gone@example.test", false, nil, "gone@example.test anyone@example.test", 0, false, false},
		"not wanted":             {"ann+work@example.test", "bob@example.test", true, nil, "bob@example.test anyone@example.test", 0, false, false},
		"not known":              {"ann+work@example.test", "bob@example.test", false, down, "", 1, true, true},
		"not known, nor needed":  {"ann+inbox@example.test", "bob@example.test", false, down, "", 1, true, false},
		"too slow":               {"ann+work@example.test", "bob@example.test", false, fmt.Errorf("%w: x", directory.ErrSlow), "bob@example.test anyone@example.test -", 1, true, false},
		"a folder by forwarding": {"fwd@example.test", "bob@example.test", false, nil, "bob@example.test anyone@example.test team@example.test no@example.test", 1, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			d := fixture()
			d.users["fwd@example.test"] = []*directory.Entry{with(user("fwd"), func(e *directory.Entry) {
				e.DeliveryOptions, e.Forwarding = []string{"forward"}, []string{"ann+work@example.test"}
			})}
			m := &meeting{tree: d, err: tt.err}
			if tt.together {
				m.address, m.groups = make(chan struct{}), make(chan struct{})
			}
			x, err := New(Config{Directory: m, Pair: Pairs("pair1"), Groups: !tt.off, Separator: "+"})
			if err != nil {
				t.Fatal(err)
			}
			a, err := mail.ParseAddress(tt.address, true)
			if err != nil {
				t.Fatal(err)
			}
			rs, err := x.Rcpt(t.Context(), &mail.Envelope{AuthUser: tt.auth}, mail.Recipient{Address: a})
			if tt.fails {
				if e := mail.AsError("", err); err == nil || e.ReplyCode() != 451 {
					t.Errorf("%+v, %v", rs, err)
				}
			} else if err != nil || len(rs) != 1 || strings.Join(rs[0].Poster, " ") != tt.poster {
				t.Errorf("%+v, %v", rs, err)
			}
			if n := m.asked.Load(); n != tt.asked {
				t.Errorf("groups were asked for %d times, want %d", n, tt.asked)
			}
		})
	}
}

// TestGroupsPost: on a real server a recipient costs one search, folder or not, and
// the groups of a sender one beside it, once while they are remembered.
func TestGroupsPost(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := cache.New(dirtest.Dial(t, start(t, trees.Tree("example.org", 50, 1)), patient), cache.Config{})
			x, err := New(Config{Directory: d, Pair: Pairs("pair1"), Groups: true, Separator: "+"})
			if err != nil {
				t.Fatal(err)
			}
			trips := func(op string) float64 { return testutil.ToFloat64(metrics.DirRoundTrips.With(op)) }
			post := func(auth, detail string, from, to int, searches, groups float64) (poster []string) {
				t.Helper()
				if _, err := d.Domain(t.Context(), "example.org"); err != nil {
					t.Fatal(err)
				}
				if auth != "" { // as to be let in
					if _, err := d.Login(t.Context(), auth); err != nil {
						t.Fatal(err)
					}
				}
				s, g := trips("search"), trips("groups")
				for i := from; i <= to; i++ {
					a, err := mail.ParseAddress(trees.UID(i)+detail+"@example.org", true)
					if err != nil {
						t.Fatal(err)
					}
					rs, err := x.Rcpt(t.Context(), &mail.Envelope{AuthUser: auth}, mail.Recipient{Address: a})
					if err != nil || len(rs) != 1 {
						t.Fatalf("%s: %+v, %v", a, rs, err)
					}
					poster = rs[0].Poster
				}
				if s, g = trips("search")-s, trips("groups")-g; s != searches || g != groups {
					t.Errorf("%d to %d by %q: %v searches and %v for groups, want %v and %v", from, to, auth, s, g, searches, groups)
				}
				return poster
			}
			u := func(i int) string { return fmt.Sprintf("%s@example.org", trees.UID(i)) }
			is := func(poster []string, want bool) {
				t.Helper()
				if slices.Contains(poster, "team@example.org") != want {
					t.Errorf("%q, want the team: %v", poster, want)
				}
			}
			is(post(u(1), "", 1, 10, 10, 0), false)
			is(post(u(1), "+work", 11, 30, 20, 1), true)
			is(post(u(1), "+work", 11, 30, 0, 0), true)
			is(post("", "+play", 11, 30, 20, 0), false)
			is(post(u(50), "+more", 1, 2, 2, 1), false) // who is not in it
			is(post(u(50), "+more", 3, 4, 2, 0), false)
			is(post(u(2), "+work", 31, 31, 1, 1), true)
			d.FlushAddress(mail.Address{Local: "team", Domain: "example.org"})
			is(post(u(1), "+work", 32, 33, 2, 1), true)
		})
	}
}
