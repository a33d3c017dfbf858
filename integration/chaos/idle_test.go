package chaos

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
)

// idler is a session that waits for news of the inbox.
type idler struct {
	*imapclient.Client
	user     cluster.User
	idle     *imapclient.IdleCommand
	exists   chan uint32
	expunged chan uint32
}

func startIdler(t *testing.T, addr string, u cluster.User) *idler {
	t.Helper()
	w := &idler{user: u, exists: make(chan uint32, 100), expunged: make(chan uint32, 100)}
	c, err := imapclient.DialInsecure(addr, &imapclient.Options{UnilateralDataHandler: &imapclient.UnilateralDataHandler{
		Mailbox: func(d *imapclient.UnilateralDataMailbox) {
			if d.NumMessages != nil {
				w.exists <- *d.NumMessages
			}
		},
		Expunge: func(n uint32) { w.expunged <- n },
	}})
	if err == nil {
		w.Client = c
		t.Cleanup(func() { c.Close() })
		err = c.Login(u.Login, u.Password).Wait()
	}
	if err == nil {
		_, err = c.Select("INBOX", nil).Wait()
	}
	if err == nil {
		w.idle, err = c.Idle()
	}
	if err != nil {
		t.Fatalf("%s: %v", u.Login, err)
	}
	return w
}

// hears waits for a number from the session.
func (w *idler) hears(t *testing.T, what string, from <-chan uint32, want uint32) {
	t.Helper()
	select {
	case got := <-from:
		if got != want {
			t.Errorf("%s: %s %d, want %d", w.user.Login, what, got, want)
		}
	case <-w.Closed():
		t.Fatalf("%s: the connection has ended before %s %d", w.user.Login, what, want)
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no %s %d", w.user.Login, what, want)
	}
}

// TestIdleThroughCrash kills the serving replica again and again while users wait for
// news. Each hears of all that comes and goes, by the session that it began with.
func TestIdleThroughCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	const crashes = 3
	c := cluster.Start(t, "--users", "6", "--pairs", "1")
	relays := c.Info().Relays
	deliver := func() {
		t.Helper()
		for i, u := range c.Info().Users {
			led := cluster.NewLedger()
			cluster.Load{
				Senders: 1, Messages: 1, Addrs: func() []string { return []string{relays[i%len(relays)].SMTP} },
				Recipients: []string{u.Address}, Size: 2 << 10, Timeout: time.Minute,
			}.Run(led, nil)
			if ok, refused, unknown := led.Counts(); ok != 1 {
				t.Fatalf("%s: %d refused, %d unknown", u.Address, refused, unknown)
			}
		}
	}
	deliver()
	var sessions []*idler
	for i, u := range c.Info().Users {
		sessions = append(sessions, startIdler(t, relays[i%len(relays)].IMAP, u))
	}
	for range crashes {
		deliver()
		for _, w := range sessions {
			w.hears(t, "EXISTS", w.exists, 2)
		}
		awaitReplicas(t, c, "pair1")
		was := c.AwaitServing("pair1", 20*time.Second)
		c.Signal(was, syscall.SIGKILL)
		for i, w := range sessions { // another session, which logs in anew
			if err := removeFirst(relays[(i+1)%len(relays)].IMAP, w.user); err != nil {
				t.Fatal(err)
			}
			w.hears(t, "EXPUNGE", w.expunged, 1)
		}
	}
	for _, w := range sessions {
		err := w.idle.Close()
		if err == nil {
			err = w.idle.Wait()
		}
		if err != nil {
			t.Errorf("%s: DONE: %v", w.user.Login, err)
		}
		d, err := w.UIDSearch(&imap.SearchCriteria{}, nil).Wait()
		if want := uint32(1 + crashes); err != nil || fmt.Sprint(d.AllUIDs()) != fmt.Sprint([]uint32{want}) {
			t.Errorf("%s: %+v, %v, want UID %d", w.user.Login, d, err, want)
		}
	}
}

// removeFirst removes the first message of an inbox, when the pair serves again.
func removeFirst(addr string, u cluster.User) error {
	c, err := imapclient.DialInsecure(addr, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err = c.Login(u.Login, u.Password).Wait(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err == nil {
		_, err = c.Select("INBOX", nil).Wait()
	}
	if err == nil {
		err = c.Store(imap.SeqSetNum(1), &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close()
	}
	if err == nil {
		err = c.Expunge().Close()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", u.Login, err)
	}
	return nil
}
