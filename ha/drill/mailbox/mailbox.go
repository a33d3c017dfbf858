/*
Package mailbox is the reader of a drill: an IMAP client, as a user would have
one.

	Mark   -> where each mailbox stands before the drill
	Read   -> every message of the drill in a mailbox, with what is wrong with it
	Prober -> one session that asks and changes something all the time
	Remove -> takes one message away behind the ledger's back (negative control)

It reads only what came after the Mark, so that a drill on a cluster with old
mail costs what the drill sent. Each call has its own connection, within
Timeout, through any relay that answers.
*/
package mailbox

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/ha/drill/ledger"
)

// User is somebody who can log in.
type User struct{ Login, Password, Address string }

// Access is the way to the mailboxes.
type Access struct {
	Doors   []ledger.Door // IMAP with TLS from the first octet
	TLS     *tls.Config   // without a ServerName, that of each door's host
	Dial    func(ctx context.Context, addr string) (net.Conn, error)
	Timeout time.Duration // of a login and of one command
}

// session is a logged-in connection that is closed when a command takes longer
// than its time; the client sets deadlines of its own, which are too late.
type session struct {
	*imapclient.Client
	watch   *time.Timer
	timeout time.Duration
}

// more gives the next commands their time.
func (s *session) more() { s.watch.Reset(s.timeout) }

func (s *session) end() {
	s.more()
	_ = s.Logout().Wait() // what was asked for is answered
	s.drop()
}

// drop ends the session without a word.
func (s *session) drop() {
	s.watch.Stop()
	s.Close()
}

// login logs in by the door with the number n, counted round.
func (a *Access) login(ctx context.Context, n int, u User) (*session, error) {
	door := a.Doors[n%len(a.Doors)]
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	raw, err := a.Dial(ctx, door.Addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", door.Name, err)
	}
	conf := a.TLS.Clone()
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(door.Addr)
	}
	secure := tls.Client(raw, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%s: %w", door.Name, err)
	}
	s := &session{watch: time.AfterFunc(a.Timeout, func() { raw.Close() }), timeout: a.Timeout}
	s.Client = imapclient.New(secure, nil)
	if err := s.Login(u.Login, u.Password).Wait(); err != nil {
		s.drop()
		return nil, fmt.Errorf("%s: login of %s: %w", door.Name, u.Login, err)
	}
	return s, nil
}

// Login logs in once by each door, and returns nil when one of them lets u in.
func (a *Access) Login(ctx context.Context, u User) error {
	var errs []error
	for n := range a.Doors {
		s, err := a.login(ctx, n, u)
		if err == nil {
			s.end()
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Held is a session that does nothing.
type Held struct {
	Port int // of this side
	s    *session
}

// Hold logs in by the door with the number n.
func (a *Access) Hold(ctx context.Context, n int, u User) (*Held, error) {
	h := &Held{}
	own := *a
	own.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := a.Dial(ctx, addr)
		if err == nil {
			if at, ok := c.LocalAddr().(*net.TCPAddr); ok {
				h.Port = at.Port
			}
		}
		return c, err
	}
	var err error
	h.s, err = own.login(ctx, n, u)
	return h, err
}

// Say sends a command and waits for nothing.
func (h *Held) Say() { h.s.Noop() }

// Drop ends the session without a word.
func (h *Held) Drop() { h.s.drop() }

// again is the pause between two attempts to log in.
const again = 200 * time.Millisecond

// insist logs in by any door, again and again until ctx ends.
func (a *Access) insist(ctx context.Context, u User) (*session, error) {
	for n := 0; ; n++ {
		s, err := a.login(ctx, n, u)
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-time.After(again):
		}
	}
}

// Mark is where a mailbox stood.
type Mark struct {
	UIDNext  imap.UID
	Validity uint32
}

// Mark looks at the inbox of u.
func (a *Access) Mark(ctx context.Context, u User) (Mark, error) {
	s, err := a.insist(ctx, u)
	if err != nil {
		return Mark{}, err
	}
	defer s.end()
	st, err := s.Status("INBOX", &imap.StatusOptions{UIDNext: true, UIDValidity: true}).Wait()
	if err != nil {
		return Mark{}, fmt.Errorf("status of %s: %w", u.Login, err)
	}
	return Mark{st.UIDNext, st.UIDValidity}, nil
}

// Inbox is what a mailbox holds of a drill.
type Inbox struct {
	Copies map[string]int // by Message-ID
	Faults []string       // UIDs that did not grow, bodies that are not whole
}

// bodyEvery is how many messages have one whose text is read and compared.
const bodyEvery = 16

// Read reads what came into the inbox of u since m. Message-IDs that do not
// begin with run are left out; size is that of the messages sent.
func (a *Access) Read(ctx context.Context, u User, m Mark, run string, size int) (*Inbox, error) {
	s, err := a.insist(ctx, u)
	if err != nil {
		return nil, err
	}
	defer s.end()
	s.more()
	sel, err := s.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		return nil, fmt.Errorf("select of %s: %w", u.Login, err)
	}
	in := &Inbox{Copies: map[string]int{}}
	if sel.UIDValidity != m.Validity {
		in.Faults = append(in.Faults, fmt.Sprintf("%s: UIDVALIDITY was %d and is %d", u.Login, m.Validity, sel.UIDValidity))
	}
	if sel.UIDNext < m.UIDNext {
		in.Faults = append(in.Faults, fmt.Sprintf("%s: UIDNEXT was %d and is %d", u.Login, m.UIDNext, sel.UIDNext))
	}
	if sel.NumMessages == 0 {
		return in, nil
	}
	s.more()
	msgs, err := s.Fetch(imap.UIDSet{{Start: m.UIDNext, Stop: 0}}, &imap.FetchOptions{UID: true, Envelope: true}).Collect()
	if err != nil {
		return nil, fmt.Errorf("fetch of %s: %w", u.Login, err)
	}
	last := imap.UID(0)
	var sample []imap.UID
	ids := map[imap.UID]string{}
	for _, msg := range msgs {
		if msg.UID < m.UIDNext {
			continue // RFC 9051 6.4.9: n:* always names the last message
		}
		if msg.UID <= last {
			in.Faults = append(in.Faults, fmt.Sprintf("%s: UID %d comes after UID %d", u.Login, msg.UID, last))
		}
		last = msg.UID
		if msg.Envelope == nil || !strings.HasPrefix(msg.Envelope.MessageID, run+".") {
			continue
		}
		id := msg.Envelope.MessageID
		if in.Copies[id]++; len(ids)%bodyEvery == 0 {
			sample = append(sample, msg.UID)
		}
		ids[msg.UID] = id
	}
	if last >= sel.UIDNext && last > 0 {
		in.Faults = append(in.Faults, fmt.Sprintf("%s: UID %d is there and UIDNEXT was %d", u.Login, last, sel.UIDNext))
	}
	return in, s.bodies(in, u, sample, ids, size)
}

// bodies compares the texts of a sample with what was sent.
func (s *session) bodies(in *Inbox, u User, sample []imap.UID, ids map[imap.UID]string, size int) error {
	if len(sample) == 0 {
		return nil
	}
	s.more()
	text := &imap.FetchItemBodySection{Specifier: imap.PartSpecifierText, Peek: true}
	msgs, err := s.Fetch(imap.UIDSetNum(sample...), &imap.FetchOptions{UID: true, BodySection: []*imap.FetchItemBodySection{text}}).Collect()
	if err != nil {
		return fmt.Errorf("fetch of texts of %s: %w", u.Login, err)
	}
	for _, msg := range msgs {
		if got := msg.FindBodySection(text); !bytes.Equal(got, ledger.Body(ids[msg.UID], size)) {
			in.Faults = append(in.Faults, fmt.Sprintf("%s: the text of UID %d (%s) is not what was sent: %d octets", u.Login, msg.UID, ids[msg.UID], len(got)))
		}
	}
	if len(msgs) != len(sample) {
		in.Faults = append(in.Faults, fmt.Sprintf("%s: %d texts asked for, %d there", u.Login, len(sample), len(msgs)))
	}
	return nil
}

// Remove deletes the message id of the inbox of u for good.
func (a *Access) Remove(ctx context.Context, u User, id string) error {
	s, err := a.insist(ctx, u)
	if err != nil {
		return err
	}
	defer s.end()
	s.more()
	if _, err := s.Select("INBOX", nil).Wait(); err != nil {
		return fmt.Errorf("select of %s: %w", u.Login, err)
	}
	s.more()
	found, err := s.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Message-ID", Value: id}}}, nil).Wait()
	if err != nil {
		return fmt.Errorf("search of %s: %w", u.Login, err)
	}
	uids := found.AllUIDs()
	if len(uids) == 0 {
		return fmt.Errorf("message %s is not in the inbox of %s", id, u.Login)
	}
	s.more()
	set := imap.UIDSetNum(uids...)
	store := s.Store(set, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}, Silent: true}, nil)
	if err := store.Close(); err != nil {
		return fmt.Errorf("store of %s: %w", u.Login, err)
	}
	if err := s.UIDExpunge(set).Close(); err != nil {
		return fmt.Errorf("expunge of %s: %w", u.Login, err)
	}
	return nil
}
