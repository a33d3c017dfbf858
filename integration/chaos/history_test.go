package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/integration/history"
)

// TestHistory has several clients work on the same mailboxes through the access
// proxies while replicas are killed. What they were told of UIDs, flags, MODSEQ
// and a quota must be possible in some order.
func TestHistory(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "4")
	kills := 3
	if nightly() {
		kills = 15
	}
	pair := c.Info().Pairs[0]
	c.AwaitServing(pair.Name, 20*time.Second)
	h, stop := history.New(), make(chan struct{})
	var wg sync.WaitGroup
	for i, u := range c.Info().Users[:2] {
		firstMail(t, c, h, u)
		for k := range 3 {
			s := &reader{c: c, h: h, u: u, id: 3*i + k, rng: rand.New(rand.NewPCG(uint64(i), uint64(k)))}
			wg.Go(func() { s.run(stop) })
		}
	}
	for round := range kills {
		time.Sleep(2 * time.Second)
		victim := pickVictim(c, pair, 2*round%4)
		t.Logf("kill -9 %s", victim)
		c.Signal(victim, syscall.SIGKILL)
		time.Sleep(2 * time.Second)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d questions", h.Len())
	if h.Len() < 100 {
		t.Errorf("only %d questions were answered: no history to speak of", h.Len())
	}
	if err := h.Check(time.Minute); err != nil {
		t.Error(err)
	}
	c.AwaitServing(pair.Name, 15*time.Second)
	checkDigests(t, c, pair.Name)
}

// octets is the quota of the readers.
const octets = 24 << 10

// firstMail gives a user a quota in the directory, which the pair learns with
// the first delivery.
func firstMail(t *testing.T, c *cluster.Cluster, h *history.History, u cluster.User) {
	t.Helper()
	if out, err := c.Postern("directory", "user", "set", u.Address, "--quota", fmt.Sprint(octets)); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := c.Postern("directory", "flush", u.Address); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	led, stop := cluster.NewLedger(), make(chan struct{})
	call := h.Call(0, history.Input{Account: u.Address})
	go cluster.Load{Senders: 1, Addrs: smtpAddrs(c), Recipients: []string{u.Address}, Size: 400, Pause: 3 * time.Second}.Run(led, stop)
	defer close(stop)
	await(t, "the first message", 30*time.Second, func() bool {
		cl := login(t, c, u)
		defer cl.Close()
		st, err := cl.Status("INBOX", &imap.StatusOptions{NumMessages: true, Size: true}).Wait()
		if err != nil || *st.NumMessages == 0 {
			return false
		}
		call.Refine(history.Input{
			Account: u.Address, Kind: history.Deliver, Key: "first", Size: *st.Size,
			Limit: &history.Limit{Bytes: octets, Messages: -1},
		})
		call.Return(history.Output{UID: 1})
		return true
	})
}

// reader is an IMAP client that changes what it reads.
type reader struct {
	c    *cluster.Cluster
	h    *history.History
	u    cluster.User
	id   int
	rng  *rand.Rand
	conn net.Conn
	cl   *imapclient.Client // nil: not connected
	uids []uint32           // in its picture of the mailbox
}

// patience is how long a client waits for an answer.
const patience = 8 * time.Second

func (s *reader) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			s.close()
			return
		case <-time.After(time.Duration(20+s.rng.IntN(60)) * time.Millisecond):
		}
		if s.cl == nil && s.connect() != nil {
			continue
		}
		_ = s.conn.SetDeadline(time.Now().Add(patience)) // seen by what follows
		s.once()
	}
}

func (s *reader) close() {
	if s.cl != nil {
		s.cl.Close()
		s.cl = nil
	}
}

// connect logs in at one of the relays and opens INBOX.
func (s *reader) connect() error {
	relays := s.c.Info().Relays
	conn, err := net.DialTimeout("tcp", relays[s.rng.IntN(len(relays))].IMAP, patience)
	if err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	cl := imapclient.New(conn, nil)
	err = cl.Login(s.u.Login, s.u.Password).Wait()
	if err == nil {
		_, err = cl.Select("INBOX", nil).Wait()
	}
	if err != nil {
		cl.Close()
		return err
	}
	s.conn, s.cl = conn, cl
	return s.look()
}

// look takes over the UIDs that are in the mailbox.
func (s *reader) look() error {
	if err := s.cl.Noop().Wait(); err != nil {
		return err
	}
	data, err := s.cl.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
	if err != nil {
		return err
	}
	s.uids = nil
	for _, uid := range data.AllUIDs() {
		s.uids = append(s.uids, uint32(uid))
	}
	return nil
}

// once asks one question.
func (s *reader) once() {
	if s.rng.IntN(3) == 0 && s.look() != nil {
		s.close()
		return
	}
	in := s.question()
	if in.Kind != history.Append && in.Kind != history.List && len(in.UIDs) == 0 {
		return
	}
	call := s.h.Call(s.id, in)
	out, err := s.ask(&in)
	var no *imap.Error
	switch {
	case err == nil:
		call.Return(out)
	case errors.As(err, &no) && no.Code == imap.ResponseCodeOverQuota:
		call.Return(history.Output{OverQuota: true})
	default:
		call.Unknown()
		s.close()
	}
}

func (s *reader) question() history.Input {
	in := history.Input{Account: s.u.Address}
	switch k := s.rng.IntN(100); {
	case k < 20:
		in.Kind, in.Size = history.Append, int64(500+s.rng.IntN(2000))
		return in
	case k < 45:
		in.Kind, in.Action, in.Flags = history.Store, history.Action(s.rng.IntN(3)), uint64(s.rng.IntN(32))
	case k < 55:
		in.Kind = history.Expunge
	case k < 75:
		in.Kind = history.List
		return in
	default:
		in.Kind = history.Rows
	}
	for _, uid := range s.uids {
		if s.rng.IntN(3) == 0 {
			in.UIDs = append(in.UIDs, uid)
		}
	}
	return in
}

// flagNames are the bits of flags, from the lowest.
var flagNames = []imap.Flag{imap.FlagSeen, imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagDraft}

func (s *reader) ask(in *history.Input) (out history.Output, err error) {
	set := imap.UIDSet{}
	for _, uid := range in.UIDs {
		set.AddNum(imap.UID(uid))
	}
	switch in.Kind {
	case history.Append:
		body := "Subject: history\r\n\r\n" + strings.Repeat("x", int(in.Size)-22) + "\r\n"
		cmd := s.cl.Append("INBOX", in.Size, nil)
		if _, err = cmd.Write([]byte(body)); err != nil {
			return out, err
		}
		if err = cmd.Close(); err != nil {
			return out, err
		}
		data, err := cmd.Wait()
		if err != nil {
			return out, err
		}
		return history.Output{UID: uint32(data.UID)}, nil
	case history.Store:
		op := []imap.StoreFlagsOp{imap.StoreFlagsSet, imap.StoreFlagsAdd, imap.StoreFlagsDel}[in.Action]
		var flags []imap.Flag
		for bit, name := range flagNames {
			if in.Flags&(1<<bit) != 0 {
				flags = append(flags, name)
			}
		}
		return history.Output{Partial: true}, s.cl.Store(set, &imap.StoreFlags{Op: op, Silent: true, Flags: flags}, nil).Close()
	case history.Expunge:
		return history.Output{Partial: true}, s.cl.UIDExpunge(set).Close()
	case history.List:
		st, err := s.cl.Status("INBOX", &imap.StatusOptions{NumMessages: true, UIDNext: true, HighestModSeq: true, Size: true}).Wait()
		if err != nil {
			return out, err
		}
		return history.Output{
			Partial: true, UIDNext: uint32(st.UIDNext), ModSeq: st.HighestModSeq, Messages: int64(*st.NumMessages), Bytes: *st.Size,
		}, nil
	}
	return s.rows(set)
}

func (s *reader) rows(set imap.UIDSet) (out history.Output, err error) {
	list, err := s.cl.Fetch(set, &imap.FetchOptions{UID: true, Flags: true, ModSeq: true, RFC822Size: true}).Collect()
	for _, m := range list {
		r := history.Row{UID: uint32(m.UID), ModSeq: m.ModSeq, Size: m.RFC822Size}
		for bit, name := range flagNames {
			if slices.Contains(m.Flags, name) {
				r.Flags |= 1 << bit
			}
		}
		out.Rows = append(out.Rows, r)
	}
	return out, err
}
