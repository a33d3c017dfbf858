/*
Package lmtptest is an LMTP server for tests: a pair of one node that takes
messages into memory, knows delivery keys as a real pair does, and answers as it
is told.
*/
package lmtptest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"sync"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// Delivery is one delivery that a Sink was asked for.
type Delivery struct {
	Key     string
	To      mail.Address
	From    mail.Address
	Private map[string]string // of MAIL and RCPT
	Body    string
	Mail    smtp.MailArgs
}

// Sink is the server.
type Sink struct {
	Addr string

	// Rcpt answers RCPT, Answer a recipient after the message, before anything
	// is stored; nil replies, or nil functions, mean success. Mail answers MAIL.
	Mail   func(m *smtp.MailArgs) *smtp.Reply
	Rcpt   func(r *smtp.RcptArgs) *smtp.Reply
	Answer func(r *smtp.RcptArgs) *smtp.Reply
	// Discard keeps nothing, for benchmarks.
	Discard bool

	l      net.Listener
	srv    *smtp.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	stored   []Delivery
	byKey    map[string][32]byte
	answered map[string]string // by recipient and hash: "later", or who has it
	decided  map[string]string // by key
	bodies   map[string][]byte // that may be named, by sender, XTRACE and name
	octets   int
	repeats  int
	conflict int
	sessions int
	messages int
}

// Option changes the server before it starts.
type Option func(*smtp.ServerConfig)

// Plain takes X-TT and CHUNKING away, as a foreign server would.
func Plain(c *smtp.ServerConfig) { c.Private = "" }

// Vacation makes the Sink one that is asked whether to answer: it says yes to
// the first question with a hash for a recipient, whatever the period, and the
// same to a repeated key.
func Vacation(c *smtp.ServerConfig) {
	c.Private += " XVACATION"
	c.PrivateRcpt = append(c.PrivateRcpt, "XVACATION")
}

// Partitions makes the Sink one that is told partitions.
func Partitions(c *smtp.ServerConfig) {
	c.Private += " XPART"
	c.PrivateRcpt = append(c.PrivateRcpt, "XPART")
}

// Posters makes the Sink one that is told who posts to a folder.
func Posters(c *smtp.ServerConfig) {
	c.Private += " XPOSTER"
	c.PrivateRcpt = append(c.PrivateRcpt, "XPOSTER")
}

// Welcome makes the Sink one that is asked which mailboxes are new.
func Welcome(c *smtp.ServerConfig) {
	c.Private += " XWELCOME"
	c.PrivateRcpt = append(c.PrivateRcpt, "XWELCOME")
}

// Claims makes the Sink one whose answers are due until they are claimed.
func Claims(c *smtp.ServerConfig) {
	Vacation(c)
	c.Private += " XCLAIM"
	c.PrivateRcpt = append(c.PrivateRcpt, "XCLAIM")
}

// Names makes the Sink one that takes a message by its name.
func Names(c *smtp.ServerConfig) {
	c.Private += " XBODY"
	c.PrivateMail = append(c.PrivateMail, "XBODY")
}

// Start starts a Sink on loopback. wrap, which may be nil, is put around every
// connection.
func Start(wrap func(net.Conn) net.Conn, opts ...Option) (*Sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Sink{Addr: l.Addr().String(), l: l, byKey: map[string][32]byte{}, answered: map[string]string{}, decided: map[string]string{}, bodies: map[string][]byte{}}
	cfg := smtp.ServerConfig{
		Protocol: smtp.LMTP, Hostname: "pair.example", Private: "X-TT 1",
		PrivateMail: []string{"XTRACE", "XTIME"}, PrivateRcpt: []string{"XKEY", "XFOLDER", "XQUOTA", "XDFLG"},
		PrivateFor: func(*smtp.ConnInfo) bool { return true },
		Limits:     smtp.Limits{Recipients: 10000, Transactions: 1 << 30, Errors: 1 << 30},
		NewSession: func(context.Context, *smtp.ConnInfo) (smtp.Session, error) {
			s.mu.Lock()
			s.sessions++
			s.mu.Unlock()
			return &session{s: s}, nil
		},
	}
	for _, o := range opts {
		o(&cfg)
	}
	if s.srv, err = smtp.NewServer(cfg); err != nil {
		l.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if wrap != nil {
				c = wrap(c)
			}
			s.wg.Go(func() { s.srv.ServeConn(ctx, c) })
		}
	})
	return s, nil
}

// Close stops the server and waits for its sessions.
func (s *Sink) Close() {
	s.l.Close()
	s.cancel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.srv.Shutdown(ctx)
	s.wg.Wait()
}

// Stored returns the deliveries that were stored, each key once.
func (s *Sink) Stored() []Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Delivery(nil), s.stored...)
}

// Counts tells how many sessions and messages came, how many deliveries
// repeated a key, and how many of those had another body.
func (s *Sink) Counts() (sessions, messages, repeats, conflicts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions, s.messages, s.repeats, s.conflict
}

// Octets is how many of messages came, those of a message that was named not
// among them.
func (s *Sink) Octets() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.octets
}

// Forget forgets the messages that may be named, as a restart would.
func (s *Sink) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.bodies)
}

func bodyID(m *smtp.MailArgs, name string) string {
	return m.From.String() + " " + m.Private["XTRACE"] + " " + name
}

type session struct {
	s     *Sink
	mail  smtp.MailArgs
	same  []byte // the message that was named
	rcpts []*smtp.RcptArgs
}

func (x *session) Hello(context.Context, *smtp.ConnInfo) error { return nil }

func (x *session) Auth(context.Context, string, string, string, string) (string, error) {
	return "", &smtp.Reply{Code: 503, Text: "no"}
}

func (x *session) Mail(_ context.Context, m *smtp.MailArgs) error {
	if x.s.Mail != nil {
		if r := x.s.Mail(m); r != nil {
			return r
		}
	}
	x.mail, x.rcpts, x.same = *m, x.rcpts[:0], nil
	if name := m.Private["XBODY"]; name != "" && name != "new" {
		x.s.mu.Lock()
		defer x.s.mu.Unlock()
		if x.same = x.s.bodies[bodyID(m, name)]; x.same == nil {
			return &smtp.Reply{Code: 451, Status: mail.StatusUnknownBody, Text: "send it"}
		}
	}
	return nil
}

func (x *session) Rcpt(_ context.Context, r *smtp.RcptArgs) error {
	if x.s.Rcpt != nil {
		if reply := x.s.Rcpt(r); reply != nil {
			return reply
		}
	}
	x.rcpts = append(x.rcpts, r)
	return nil
}

func (x *session) Data(_ context.Context, m *smtp.Message) []*smtp.Reply {
	replies := make([]*smtp.Reply, len(x.rcpts))
	body := m.Bytes
	if x.same != nil {
		body = x.same
	}
	for i, r := range x.rcpts {
		if x.s.Answer != nil {
			replies[i] = x.s.Answer(r)
		}
		if replies[i] == nil {
			replies[i] = x.s.store(&x.mail, r, body)
		}
	}
	x.s.mu.Lock()
	x.s.messages++
	x.s.octets += len(m.Bytes)
	if x.mail.Private["XBODY"] == "new" {
		x.s.bodies[bodyID(&x.mail, fmt.Sprintf("%x", sha256.Sum256(m.Bytes)))] = append([]byte(nil), m.Bytes...)
	}
	x.s.mu.Unlock()
	return replies
}

var delivered = &smtp.Reply{Code: 250, Status: mail.StatusDelivered, Text: "OK"}

// store is what a pair does at apply: a key it has is answered as before.
func (s *Sink) store(m *smtp.MailArgs, r *smtp.RcptArgs, body []byte) *smtp.Reply {
	if s.Discard {
		return delivered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, hash := r.Private["XKEY"], sha256.Sum256(body)
	if key != "" {
		if was, seen := s.byKey[key]; seen {
			s.repeats++
			if was != hash {
				s.conflict++
				return &smtp.Reply{Code: 554, Status: mail.StatusBadContent, Text: "delivery key seen with another body"}
			}
			if d := s.decided[key]; d != "" {
				if q, err := query(r); err == nil && q.Later {
					d = s.decide(r.To, q)
				}
				return &smtp.Reply{Code: 250, Status: mail.StatusDelivered, Text: "OK" + d}
			}
			return delivered
		}
		s.byKey[key] = hash
	}
	decision := ""
	if r.Private["XVACATION"] != "" {
		q, err := query(r)
		if err != nil {
			return &smtp.Reply{Code: 501, Status: mail.StatusBadParameter, Text: err.Error()}
		}
		decision = s.decide(r.To, q)
		s.decided[key] = decision
		if q.Only {
			return &smtp.Reply{Code: 250, Status: mail.StatusDelivered, Text: "not stored" + decision}
		}
	}
	d := Delivery{Key: key, To: r.To, From: m.From, Body: string(body), Private: map[string]string{}, Mail: *m}
	for k, v := range m.Private {
		d.Private[k] = v
	}
	for k, v := range r.Private {
		d.Private[k] = v
	}
	s.stored = append(s.stored, d)
	return &smtp.Reply{Code: 250, Status: mail.StatusDelivered, Text: fmt.Sprintf("OK %d%s", len(s.stored), decision)}
}

// decide is a pair's answer to XVACATION.
func (s *Sink) decide(to mail.Address, q mail.AutoreplyQuery) string {
	id := fmt.Sprintf("%s %x", to.Key(), q.Hash)
	switch was := s.answered[id]; {
	case q.Later && was == "":
		s.answered[id] = "later"
	case q.Later && was == "later":
	case q.By != mail.DeliveryKey{} && (was == "" || was == "later" || was == q.By.String()):
		s.answered[id] = q.By.String()
	case q.Period > 0 && was != "" || q.Later:
		return " vacation=none"
	default:
		s.answered[id] = "noted"
	}
	return " vacation=reply"
}

// query reads the question of a recipient.
func query(r *smtp.RcptArgs) (mail.AutoreplyQuery, error) {
	q, err := mail.ParseAutoreplyQuery(r.Private["XVACATION"])
	if v := r.Private["XCLAIM"]; err == nil && v != "" {
		err = q.ReadClaim(v)
	}
	return q, err
}

func (x *session) Reset() {}
func (x *session) Close() {}
