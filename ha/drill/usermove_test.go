package drill

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/shared/admin"
)

// somewhere is a target of two pairs that only say where accounts are.
type somewhere struct {
	Target
	nodes []Node
}

func (s *somewhere) Nodes() []Node { return s.nodes }

// says serves the admin API of the only replica of a pair.
func (s *somewhere) says(t *testing.T, pair string, st admin.MoveStatus, messages int) {
	t.Helper()
	srv := admin.NewServer(slog.New(slog.DiscardHandler))
	admin.Handle(srv, admin.GetStatus, func(context.Context, admin.None) (admin.NodeStatus, error) {
		return admin.NodeStatus{Name: pair + "-a", Groups: []admin.GroupStatus{{Pair: pair, Node: pair + "-a", Serving: true, Term: 1}}}, nil
	})
	admin.Handle(srv, admin.MoveState, func(context.Context, admin.MailboxName) (admin.MoveStatus, error) { return st, nil })
	admin.Handle(srv, admin.MailboxShow, func(context.Context, admin.MailboxQuery) (admin.MailboxDetail, error) {
		return admin.MailboxDetail{Mailboxes: []admin.Mailbox{{Name: "INBOX", Messages: messages}, {Name: "Drill", Messages: 9}}}, nil
	})
	path := filepath.Join(t.TempDir(), "s")
	l, err := admin.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx, l) })
	n := Node{Name: pair + "-a", Role: RoleData, Pair: pair, Admin: admin.NewUnixClient(path)}
	t.Cleanup(func() { n.Admin.Close(); cancel(); wg.Wait() })
	s.nodes = append(s.nodes, n)
}

// TestPlaces: a user who has moved is at the other pair alone, with all that was
// read.
func TestPlaces(t *testing.T) {
	gone, open := admin.MoveStatus{State: admin.MoveGone, Peer: "pair2", Closed: true}, admin.MoveStatus{Exists: true}
	for _, c := range []struct {
		name     string
		old, new admin.MoveStatus
		messages int
		want     string // in the check that fails
	}{
		{"there", gone, open, 3, ""},
		{"in both places", open, open, 3, "ann@x: pair1 says exists true"},
		{"not dropped", admin.MoveStatus{Exists: true, State: admin.MoveGone, Peer: "pair2", Closed: true}, open, 3, "ann@x: pair1 says exists true"},
		{"gone elsewhere", admin.MoveStatus{State: admin.MoveGone, Peer: "pair3", Closed: true}, open, 3, "ann@x: pair1 says exists false"},
		{"not open", gone, admin.MoveStatus{Exists: true, State: admin.MoveArrives, Closed: true}, 3, "ann@x: pair2 says exists true"},
		{"nowhere", gone, admin.MoveStatus{}, 3, "ann@x: pair2 says exists false"},
		{"a message is elsewhere", gone, open, 1, "ann@x: pair2 has 1 messages, 2 of the load were read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &somewhere{}
			s.says(t, "pair1", c.old, 0)
			s.says(t, "pair2", c.new, c.messages)
			r := &run{field: &field{t: s, o: &Options{Slack: 1}, pair: "pair1", other: "pair2", res: &Result{}}}
			r.moves = []UserMove{{Address: "ann@x", Account: "ann@x", State: stateMoved}}
			err := r.places(t.Context(), map[ledger.Key]int{{Recipient: "ann@x", ID: "1"}: 1, {Recipient: "ann@x", ID: "2"}: 1, {Recipient: "bob@x", ID: "3"}: 1})
			if len(r.res.Checks) != 1 || r.res.Checks[0].OK != (c.want == "") || (err == nil) != (c.want == "") || !strings.Contains(r.res.Checks[0].Detail, c.want) {
				t.Errorf("%v, checks %+v, want %q", err, r.res.Checks, c.want)
			}
		})
	}
}

// TestAllMoved: each user has to move, and to be closed for a moment only.
func TestAllMoved(t *testing.T) {
	for _, c := range []struct {
		name   string
		last   UserMove
		broken string
	}{
		{"moved", UserMove{State: stateMoved, To: "pair2", Messages: 4, Closed: time.Second}, ""},
		{"failed", UserMove{State: "failed", To: "pair2", Error: "no"}, "every user goes to pair2"},
		{"was there", UserMove{State: stateThere, To: "pair2"}, "every user goes to pair2"},
		{"closed for long", UserMove{State: stateMoved, To: "pair2", Closed: time.Second + time.Millisecond}, "nobody is closed for long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &field{o: &Options{Slack: 1}, other: "pair2", users: make([]User, 2), res: &Result{}}
			f.moves = []UserMove{{State: stateMoved, To: "pair2", Messages: 3, Closed: time.Millisecond}, c.last}
			err := f.allMoved()
			broken := ""
			for _, k := range f.res.Checks {
				if !k.OK {
					broken += k.Name
				}
			}
			if broken != c.broken || (err == nil) != (c.broken == "") {
				t.Errorf("%v, broken %q, want %q", err, broken, c.broken)
			}
			if m := f.res.Moves; c.broken == "" && (*m != Moves{Users: 2, To: "pair2", Messages: 7, ClosedMillis: 1000}) {
				t.Errorf("%+v", m)
			}
		})
	}
}
