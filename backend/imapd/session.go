package imapd

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// session is one connection. Its fields belong to its goroutine, cancel and
// conn.wake apart.
type session struct {
	srv    *Server
	ctx    context.Context
	cancel context.CancelFunc
	conn   *conn
	r      *imapwire.Reader
	w      *imapwire.Writer
	p      imapwire.Parser // of the command at hand

	tag      []byte // of the command at hand, in tagRoom
	tagRoom  [maxTag]byte
	cmd      *command
	uid      bool   // the command was written with UID
	literals int64  // octets of literals of the command
	code     string // response code of the tagged OK, with its brackets
	text     string // text of the tagged OK

	bad     int    // BAD in a row
	refused int    // logins
	origin  string // address of the client that a proxy speaks for, for the log
	idling  bool
	resumes bool // the proxy can go on with the session at another replica
	keeps   bool // the proxy keeps the state of a session that waits
	fresh   bool // no command since the login
	done    bool // the command at hand has made a change that is not to be made twice

	account *mailbox.Account // nil before login
	view    *mailbox.View    // nil unless a mailbox is selected
	behind  bool             // removals may wait to be told
	own     int              // changes of this session since the last Sync
	told    []uint64         // MODSEQs of those of them whose results were told

	condstore, qresync, rev2, utf8 bool // what was enabled

	saved []imapwire.Range // UIDs of the saved search result, "$"
}

func newSession(ctx context.Context, srv *Server, c *conn) *session {
	s := &session{srv: srv, conn: c}
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.r, s.w = imapwire.NewReader(c, 0, 0), imapwire.NewWriter(c)
	c.heed = func() bool { return s.idling || s.ending() }
	return s
}

// ending reports whether the session must end before its next command.
func (s *session) ending() bool {
	return s.srv.closing.Load() || s.ctx.Err() != nil || s.account != nil && s.srv.serving.Lost(s.ctx) != nil
}

// run speaks with the client until the session ends.
func (s *session) run() {
	defer s.close()
	s.w.Acquire()
	s.greet()
	for s.next() {
	}
	s.w.Flush() // the connection ends anyhow
	s.w.Release()
}

func (s *session) close() {
	s.deselect()
	if s.account != nil {
		s.srv.leave(s.account.Name())
	}
	s.cancel()
}

// deselect leaves the selected mailbox, if any.
func (s *session) deselect() {
	if s.view != nil {
		s.view.Close()
		s.view = nil
	}
	s.behind, s.own, s.told, s.saved = false, 0, nil, nil
}

func (s *session) greet() {
	s.w.WriteString("* OK [CAPABILITY ")
	s.w.WriteString(s.capabilities())
	s.w.WriteString("] ")
	s.w.WriteString(s.srv.cfg.Hostname)
	s.w.WriteString(" IMAP ready\r\n")
}

// next reads and answers one command. It returns false when the session is
// over.
func (s *session) next() bool {
	if s.ending() {
		s.goodbye()
		return false
	}
	if s.r.Buffered() == 0 {
		if s.w.Flush() != nil {
			return false
		}
		s.w.Release()
	}
	line, err := s.readLine()
	s.w.Acquire()
	begun := time.Now()
	if err == nil {
		s.conn.readLimit = s.srv.cfg.IOTimeout
		err = s.command(line)
	} else if errors.Is(err, imapwire.ErrLineTooLong) {
		err = s.longLine(line)
	} else {
		s.readFailed(err)
		return false
	}
	answer, ok := s.answer(err)
	if m := s.srv.cfg.Metrics; m != nil && answer != "" && s.cmd != nil {
		m.Command(s.cmd.name, answer, time.Since(begun))
	}
	return ok
}

// linger is how long a session waits for a command with a buffer for it, and before it
// tells its state.
const linger = 5 * time.Second

// readLine reads the first line of a command.
func (s *session) readLine() ([]byte, error) {
	idle := s.srv.cfg.IdleTimeout
	s.conn.readLimit = min(linger, idle)
	s.r.Begin()
	line, err := s.r.Line()
	var ne net.Error
	if idle <= linger || !errors.As(err, &ne) || !ne.Timeout() {
		return line, err
	}
	if s.r.Buffered() == 0 && s.keeps {
		s.w.Acquire()
		s.tellState()
		err := s.w.Flush()
		s.w.Release()
		if err != nil {
			return nil, err
		}
	}
	s.conn.readLimit = idle - linger
	if err := s.r.Wait(); err != nil {
		return nil, err
	}
	return s.r.Line()
}

// goodbye says why the server ends the session.
func (s *session) goodbye() {
	s.done = false // between commands
	if s.srv.closing.Load() || s.ctx.Err() != nil {
		if !s.handOn("") {
			s.w.WriteString("* BYE [UNAVAILABLE] Server shuts down\r\n")
		}
		return
	}
	s.byeNotServing(s.srv.serving.Lost(s.ctx))
}

// byeNotServing tells the client to look for the replica that serves.
func (s *session) byeNotServing(not *mailbox.ErrNotServing) {
	leader := ""
	if not != nil {
		leader = not.Leader
	}
	if s.handOn(leader) {
		return
	}
	s.w.WriteString("* BYE [UNAVAILABLE] This replica does not serve now")
	s.leader(not)
	s.w.WriteString("\r\n")
}

// leader names the replica to ask, for proxies.
func (s *session) leader(not *mailbox.ErrNotServing) {
	if not != nil && not.Leader != "" {
		s.w.WriteString("; leader=")
		s.w.WriteString(not.Leader)
	}
}

// readFailed says BYE to a client that was silent too long.
func (s *session) readFailed(err error) {
	var ne net.Error
	switch {
	case errors.Is(err, errWake):
		s.goodbye()
	case errors.As(err, &ne) && ne.Timeout():
		s.w.WriteString("* BYE Nothing heard for too long\r\n")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
	default:
		s.srv.cfg.Log.Debug("imap connection ends", "peer", s.peer(), "err", err)
	}
}

// peer is the client's address for the log.
func (s *session) peer() string {
	if s.origin != "" {
		return s.origin
	}
	return s.conn.raw.RemoteAddr().String()
}

// command answers the command that begins with line, which has been read.
func (s *session) command(line []byte) error {
	s.code, s.text, s.literals, s.cmd, s.done = "", "", 0, nil, false
	lit, has := imapwire.CommandLiteral(line)
	tag, verb, uid, rest, ok := imapwire.SplitCommand(line)
	s.setTag(tag)
	refuse := func(text string) error {
		if err := s.skip(lit, has); err != nil {
			return err
		}
		return bad(text)
	}
	if len(tag) > maxTag {
		return refuse("Tag too long")
	}
	if !ok {
		return refuse("Command expected: tag, space, name")
	}
	s.uid = uid
	if s.cmd = lookup(verb); s.cmd == nil || uid && !s.cmd.uid {
		s.cmd = nil
		return refuse("Unknown command")
	}
	if err := s.allowed(); err != nil {
		if e := s.skip(lit, has); e != nil {
			return e
		}
		return err
	}
	defer s.begun()
	if s.cmd.framed {
		return s.cmd.run(s, rest, lit, has)
	}
	for has {
		var err error
		if lit, has, err = s.inline(lit); err != nil {
			return err
		}
	}
	s.p.Reset(s.r.Text(), rest)
	return s.cmd.run(s, rest, lit, false)
}

// begun notes that the session has had a command since its login.
func (s *session) begun() { s.fresh = s.cmd != nil && s.cmd.state == beforeLogin && s.account != nil }

func (s *session) setTag(tag []byte) {
	s.tag = append(s.tagRoom[:0], tag[:min(len(tag), maxTag)]...)
	if len(tag) == 0 || len(tag) > maxTag {
		s.tag = append(s.tagRoom[:0], '*')
	}
}

// longLine answers a command whose first line is beyond the limit.
func (s *session) longLine(line []byte) error {
	s.cmd = nil
	tag, _, _, _, _ := imapwire.SplitCommand(line)
	s.setTag(tag)
	return s.skipLong()
}

// skipLong reads the rest of a command with a line beyond the limit.
func (s *session) skipLong() error {
	lit, has, err := s.r.SkipLine(skipBound)
	switch {
	case err == nil:
		err = s.skip(lit, has)
	case errors.Is(err, imapwire.ErrLineTooLong):
		err = bye("", "Line too long")
	default:
		err = ioError{err}
	}
	if err != nil {
		return err
	}
	return bad("Line too long")
}

// inline reads a literal and the line behind it into the command's text.
func (s *session) inline(lit imapwire.Literal) (next imapwire.Literal, has bool, err error) {
	limit := int64(commandLiteral)
	if s.account == nil {
		limit = loginLiteral
	}
	if lit.Size > limit-s.literals {
		if err := s.skip(lit, true); err != nil {
			return next, false, err
		}
		return next, false, no("TOOBIG", "Literal too large")
	}
	s.literals += lit.Size
	if err := s.proceed(lit); err != nil {
		return next, false, err
	}
	if err := s.r.Inline(int(lit.Size)); err != nil {
		return next, false, ioError{err}
	}
	line, err := s.r.Line()
	if errors.Is(err, imapwire.ErrLineTooLong) {
		return next, false, s.skipLong()
	}
	if err != nil {
		return next, false, ioError{err}
	}
	next, has = imapwire.CommandLiteral(line)
	return next, has, nil
}

// proceed asks for the octets of a literal whose sender waits.
func (s *session) proceed(lit imapwire.Literal) error {
	if lit.NonSync {
		return nil
	}
	s.w.WriteString("+ OK\r\n")
	return s.flush()
}

func (s *session) flush() error {
	if err := s.w.Flush(); err != nil {
		return ioError{err}
	}
	return nil
}

func (s *session) spill() error {
	if err := s.w.Spill(); err != nil {
		return ioError{err}
	}
	return nil
}

// skip reads what is left of a command that is refused at a literal: nothing
// if its sender waits, else the literal and what follows it, within bounds.
func (s *session) skip(lit imapwire.Literal, has bool) error {
	budget := int64(skipBound)
	for has && lit.NonSync {
		if lit.Size > budget {
			return bye("TOOBIG", "Literal too large")
		}
		budget -= lit.Size
		if err := s.r.Discard(lit.Size); err != nil {
			return ioError{err}
		}
		var err error
		if lit, has, err = s.r.SkipLine(budget); errors.Is(err, imapwire.ErrLineTooLong) {
			return bye("", "Line too long")
		} else if err != nil {
			return ioError{err}
		}
	}
	return nil
}
