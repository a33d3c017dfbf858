package raftnet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	handshakeTime = 5 * time.Second
	maxStrangers  = 64 // connections that have not authenticated yet
)

// noMember is in what one reads who is not in the group, or not any more.
const noMember = "is no member of pair"

// givenUp is in what one reads who was given up as lost.
const givenUp = "given up as lost"

// GivenUp reports whether an error is the answer of a member that we were given up,
// and that the group went on without us.
func GivenUp(err error) bool {
	said := remote("")
	return errors.As(err, &said) && strings.HasSuffix(string(said), givenUp)
}

// NoMember reports whether an error is the answer of a member that we are not in
// its group.
func NoMember(err error) bool {
	said := remote("")
	return errors.As(err, &said) && strings.Contains(string(said), noMember)
}

// Authorize says whether a verified certificate may speak for a member of a
// pair. It is asked on both ends of a connection.
type Authorize func(tls.ConnectionState) error

// Port is a listener that groups share. Close ends it and its connections.
type Port struct {
	listener  net.Listener
	tls       *tls.Config
	authorize Authorize
	log       *slog.Logger
	strangers chan struct{}
	wg        sync.WaitGroup

	mu     sync.Mutex // guards what follows
	groups map[string]*Transport
	early  map[net.Conn]struct{} // not handed to a group yet
	closed bool
}

// NewPort serves l. The configuration must demand and verify client
// certificates.
func NewPort(l net.Listener, conf *tls.Config, authorize Authorize, log *slog.Logger) (*Port, error) {
	verifies := conf != nil && (conf.GetConfigForClient != nil || conf.ClientAuth == tls.RequireAndVerifyClientCert ||
		conf.ClientAuth == tls.RequireAnyClientCert && conf.VerifyConnection != nil)
	if !verifies {
		return nil, errors.New("raftnet: the server's TLS configuration does not verify client certificates")
	}
	if authorize == nil {
		return nil, errors.New("raftnet: nothing authorizes peers")
	}
	conf = conf.Clone()
	conf.DynamicRecordSizingDisabled = true
	p := &Port{
		listener: l, tls: conf, authorize: authorize, log: log,
		strangers: make(chan struct{}, maxStrangers),
		groups:    map[string]*Transport{}, early: map[net.Conn]struct{}{},
	}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr returns the listener's address.
func (p *Port) Addr() net.Addr { return p.listener.Addr() }

func (p *Port) accept() {
	var delay time.Duration
	for {
		p.strangers <- struct{}{} // freed by handle; the others wait in the system's queue
		c, err := p.listener.Accept()
		if err != nil {
			<-p.strangers
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors or the like: it passes.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			p.log.Warn("accept failed", "addr", p.listener.Addr(), "err", err)
			time.Sleep(delay)
			continue
		}
		delay = 0
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			c.Close()
			return
		}
		p.early[c] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.handle(c) })
	}
}

// handle authenticates a connection, for which accept has made room, and gives
// it to its group.
func (p *Port) handle(c net.Conn) {
	defer c.Close()
	l, pre, err := p.authenticate(c)
	<-p.strangers
	p.mu.Lock()
	delete(p.early, c)
	t := p.groups[pre.pair]
	p.mu.Unlock()
	switch {
	case err != nil:
	case t == nil:
		err = fmt.Errorf("no group of pair %q here", pre.pair)
	case pre.to != t.cfg.ID:
		err = fmt.Errorf("looks for member %s of pair %s, this is %s", pre.to, pre.pair, t.cfg.ID)
	case t.cfg.GivenUp != nil && t.cfg.GivenUp(pre.from):
		err = fmt.Errorf("%s %s %s: %s", pre.from, noMember, pre.pair, givenUp)
	case !t.cfg.Member(pre.from):
		err = fmt.Errorf("%s %s %s", pre.from, noMember, pre.pair)
	default:
		err = t.speaks(pre.from, l)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		// A member that has heard enough from others hangs up.
		p.log.Debug("connection ended before it said what for", "remote", c.RemoteAddr().String(), "err", err)
		return
	}
	if err != nil {
		p.log.Warn("connection refused", "remote", c.RemoteAddr().String(), "err", err)
		if l != nil { // it has authenticated: it may know why
			_ = l.refuse(err.Error())
			// It may have asked already: with that unread, closing would take the
			// refusal away from it.
			l.deadlineRead(dialTime)
			_, _, _, _ = l.receive()
		}
		return
	}
	l.limit = maxMessage
	l.deadline(0)
	t.serve(l, pre)
}

func (p *Port) authenticate(c net.Conn) (*link, preamble, error) {
	raw := newHeld(c)
	t := tls.Server(raw, p.tls)
	if err := c.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, preamble{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, preamble{}, err
	}
	if err := p.authorize(t.ConnectionState()); err != nil {
		return nil, preamble{}, fmt.Errorf("not authorized: %w", err)
	}
	l := newLink(t, raw)
	l.limit = smallBuffer
	pre, err := readPreamble(l)
	if err != nil {
		return nil, pre, err
	}
	return l, pre, nil
}

// add makes the port serve a group.
func (p *Port) add(t *Transport) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	if p.groups[t.cfg.Pair] != nil {
		return fmt.Errorf("raftnet: pair %s is served already", t.cfg.Pair)
	}
	p.groups[t.cfg.Pair] = t
	return nil
}

func (p *Port) remove(t *Transport) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.groups[t.cfg.Pair] == t {
		delete(p.groups, t.cfg.Pair)
	}
}

// Close stops listening, closes all connections and waits for their ends.
func (p *Port) Close() error {
	p.mu.Lock()
	p.closed = true
	for c := range p.early {
		c.Close()
	}
	var groups []*Transport
	for _, t := range p.groups {
		groups = append(groups, t)
	}
	p.mu.Unlock()
	err := p.listener.Close()
	for _, t := range groups {
		_ = t.Close()
	}
	p.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
