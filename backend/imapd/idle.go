package imapd

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/imapwire"
)

// idle waits for DONE and tells changes as they come (RFC 2177). Meanwhile the
// session holds no buffers.
func (s *session) idle() error {
	if err := s.p.End(); err != nil {
		return err
	}
	if s.view != nil {
		if err := s.update(true, false); err != nil {
			return err
		}
	}
	s.p.Reset(nil, 0) // it refers to the buffer
	s.w.WriteString("+ idling\r\n")
	s.idling = true
	stop := s.watch()
	err := s.waitDone()
	stop()
	s.idling = false
	s.conn.rearm()  // a wake for the end of the session is seen before the next command
	s.behind = true // the announcement of a change may have been spent on a wake
	s.conn.readLimit = s.srv.cfg.IOTimeout
	return err
}

// watch wakes the session when the mailbox changes, until stop is called.
func (s *session) watch() (stop func()) {
	if s.view == nil {
		return func() {}
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	changed := s.view.Changed()
	watching.Go(func() {
		for {
			select {
			case <-changed:
				s.conn.wake()
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		watching.Wait()
	}
}

// waitDone sends what changes until the client ends the IDLE.
func (s *session) waitDone() error {
	until := time.Now().Add(s.srv.cfg.IdleTimeout)
	for {
		s.tellState()
		if err := s.flush(); err != nil {
			return err
		}
		s.w.Release()
		s.conn.readLimit = min(s.srv.cfg.KeepAlive, time.Until(until))
		s.r.Begin()
		err := s.r.Wait()
		s.w.Acquire()
		var ne net.Error
		switch {
		case err == nil:
			return s.readDone()
		case errors.Is(err, errWake):
			s.conn.rearm()
			if s.ending() {
				s.goodbye()
				return errOver
			}
			if s.view == nil {
				continue
			}
			if err := s.update(true, true); err != nil {
				return err
			}
		case errors.As(err, &ne) && ne.Timeout() && time.Now().Before(until):
			s.w.WriteString("* OK Still here\r\n")
		default:
			return ioError{err}
		}
	}
}

// readDone reads the line that ends an IDLE, which ought to be DONE.
func (s *session) readDone() error {
	s.idling = false // a change does not interrupt the line
	s.conn.readLimit = s.srv.cfg.IOTimeout
	line, err := s.r.Line()
	if errors.Is(err, imapwire.ErrLineTooLong) {
		return s.skipLong()
	}
	if err != nil {
		return ioError{err}
	}
	if n := len(line); n >= 2 && line[n-2] == '\r' {
		line = line[:n-2]
	} else {
		line = line[:n-1]
	}
	if !imapwire.EqualFold(line, "DONE") {
		return bad("DONE expected")
	}
	return nil
}
