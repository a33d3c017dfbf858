package pop3d

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// session is one connection. Before login account is nil; after it the view
// and drop hold the maildrop.
type session struct {
	srv  *Server
	ctx  context.Context
	raw  net.Conn // below TLS
	conn net.Conn
	peer net.Addr
	tls  *tls.ConnectionState
	r    *bufio.Reader
	w    *bufio.Writer

	errors int
	user   string // of USER, waiting for PASS
	name   string // account, once logged in
	view   *mailbox.View
	drop   []entry

	resumes bool   // the proxy can go on elsewhere
	state   []byte // of the session to go on with, until the login

	mu    sync.Mutex // guards what follows
	woken bool
}

type entry struct {
	uid     uint32
	size    int64
	deleted bool
}

var (
	errQuit = errors.New("session ends")
	errWake = errors.New("session must end")
)

// cutError ends a session in the middle of an answer.
type cutError struct{ error }

func (e cutError) Unwrap() error { return e.error }

// refusal is an answer beginning with -ERR.
type refusal string

func (r refusal) Error() string { return string(r) }

func (s *session) close() {
	if s.view != nil {
		s.view.Close()
	}
	if s.name != "" {
		s.srv.unlock(s.name) // before the client hears that it may come again
	}
	s.w.Flush()
	s.conn.Close()
}

func (s *session) run() {
	s.ok("%s POP3 ready", s.srv.cfg.Hostname)
	for {
		if s.ending() {
			s.handOn("")
			return
		}
		if waiting, _ := s.r.Peek(s.r.Buffered()); bytes.IndexByte(waiting, '\n') < 0 && s.w.Flush() != nil {
			return
		}
		line, err := s.readLine()
		if err != nil && !isRefusal(err) && !errors.Is(err, errWake) {
			return
		}
		if err == nil {
			err = s.command(line)
		}
		var (
			r   refusal
			ns  *mailbox.ErrNotServing
			cut cutError
		)
		switch {
		case err == nil, errors.Is(err, errWake):
		case errors.Is(err, errQuit):
			return
		case errors.As(err, &r):
			s.errors++
			fmt.Fprintf(s.w, "-ERR %s\r\n", string(r))
			if s.errors >= maxErrors {
				return
			}
		default: // the connection, or a store that cannot answer
			if errors.As(err, &ns) && !errors.As(err, &cut) && !s.handOn(ns.Leader) {
				s.w.WriteString("-ERR [SYS/TEMP] this replica no longer serves\r\n")
			}
			s.srv.cfg.Log.Info("pop3 session ends", "account", s.name, "peer", s.peer, "err", err)
			return
		}
	}
}

func isRefusal(err error) bool {
	var r refusal
	return errors.As(err, &r)
}

// ending reports whether the session must end before its next command.
func (s *session) ending() bool {
	return s.ctx.Err() != nil || s.view != nil && s.srv.serving.Lost(s.ctx) != nil
}

// wake ends a read that waits, or the next one. Other goroutines may call it.
func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = true
	s.raw.SetReadDeadline(time.Unix(1, 0)) // an error means that the connection is closed
	if s.ctx.Err() != nil {
		s.raw.SetWriteDeadline(time.Now().Add(lastWrite))
	}
}

// arm gives the client the time of a command.
func (s *session) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = false
	until := time.Now().Add(s.srv.cfg.Idle)
	s.conn.SetReadDeadline(until)
	if s.ctx.Err() == nil { // else wake has set it
		s.conn.SetWriteDeadline(until)
	}
}

// disarmed reports whether wake has been called since arm.
func (s *session) disarmed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.woken
}

// readLine reads one command without its line end. A line that is too long is
// consumed whole, so that its rest is never taken for a command.
func (s *session) readLine() (string, error) {
	var line []byte
	long := false
	s.arm()
	for {
		if s.ending() { // wake may have come before arm
			return "", errWake
		}
		part, err := s.r.ReadSlice('\n')
		var ne net.Error
		woken := errors.As(err, &ne) && ne.Timeout() && s.disarmed()
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !woken {
			return "", err
		}
		if len(line)+len(part) > maxLine {
			long = true
		} else {
			line = append(line, part...)
		}
		if err == nil {
			break
		}
		if woken {
			s.arm()
		}
	}
	if long {
		return "", refusal("[SYS/PERM] line too long")
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

func (s *session) ok(f string, a ...any) { s.say("+OK "+f, a...) }

func (s *session) say(f string, a ...any) { fmt.Fprintf(s.w, f+"\r\n", a...) }

func (s *session) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	verb = strings.ToUpper(verb)
	switch verb {
	case "CAPA":
		return s.capa()
	case "QUIT":
		return s.quit()
	case "NOOP":
		if s.view == nil {
			return refusal("log in first")
		}
		s.ok("")
		return nil
	}
	if s.view == nil {
		switch verb {
		case "USER", "PASS", "AUTH":
			return s.login(verb, arg)
		case "XRESUME":
			return s.resume(arg)
		case "STAT", "LIST", "RETR", "DELE", "RSET", "TOP", "UIDL":
			return refusal("log in first")
		}
		return refusal("unknown command")
	}
	switch verb {
	case "STAT":
		n, size := s.total()
		s.ok("%d %d", n, size)
		return nil
	case "LIST":
		return s.list(arg, func(e entry) string { return strconv.FormatInt(e.size, 10) })
	case "UIDL":
		validity := s.view.Info().UIDValidity
		return s.list(arg, func(e entry) string { return fmt.Sprintf("%08x%08x", validity, e.uid) })
	case "RETR":
		return s.retrieve(arg, -1)
	case "TOP":
		num, lines, _ := strings.Cut(arg, " ")
		n, err := strconv.Atoi(strings.TrimSpace(lines))
		if err != nil || n < 0 {
			return refusal("TOP wants a message number and a number of lines")
		}
		return s.retrieve(num, n)
	case "DELE":
		e, n, err := s.message(arg)
		if err != nil {
			return err
		}
		e.deleted = true
		s.ok("message %d marked", n)
		return nil
	case "RSET":
		for i := range s.drop {
			s.drop[i].deleted = false
		}
		s.ok("")
		return nil
	case "USER", "PASS", "AUTH":
		return refusal("already logged in")
	}
	return refusal("unknown command")
}

func (s *session) capa() error {
	s.ok("capabilities follow")
	s.w.WriteString("TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nIMPLEMENTATION Postern\r\n")
	if s.srv.cfg.Passwords {
		s.w.WriteString("USER\r\nSASL PLAIN EXTERNAL\r\n")
	} else {
		s.w.WriteString("SASL EXTERNAL\r\n")
	}
	s.w.WriteString(".\r\n")
	return nil
}

func (s *session) login(verb, arg string) error {
	if verb != "AUTH" && !s.srv.cfg.Passwords {
		return refusal("[AUTH] only SASL EXTERNAL here")
	}
	switch verb {
	case "USER":
		if arg == "" {
			return refusal("USER wants a name")
		}
		s.user = arg
		s.ok("send PASS")
		return nil
	case "PASS":
		if s.user == "" {
			return refusal("send USER first")
		}
		user := s.user
		s.user = ""
		return s.authenticate("PLAIN", "", user, arg)
	}
	mech, initial, given := strings.Cut(arg, " ")
	mech = strings.ToUpper(mech)
	if mech != "EXTERNAL" && (mech != "PLAIN" || !s.srv.cfg.Passwords) {
		return refusal("mechanism not offered")
	}
	if !given { // RFC 5034 section 4: an empty challenge
		s.w.WriteString("+ \r\n")
		if err := s.w.Flush(); err != nil {
			return err
		}
		var err error
		if initial, err = s.readLine(); err != nil {
			return err
		}
		if initial == "*" {
			return refusal("login given up")
		}
	}
	if initial == "=" {
		initial = ""
	}
	data, err := base64.StdEncoding.DecodeString(initial)
	if err != nil {
		return refusal("not base64")
	}
	if mech == "EXTERNAL" {
		return s.authenticate(mech, string(data), "", "")
	}
	parts := bytes.Split(data, []byte{0})
	if len(parts) != 3 {
		return refusal("PLAIN wants three parts")
	}
	return s.authenticate(mech, string(parts[0]), string(parts[1]), string(parts[2]))
}

func (s *session) authenticate(mech, authz, user, password string) error {
	name, err := s.srv.cfg.Authenticate(s.ctx, mech, authz, user, password, s.tls, s.peer)
	if err != nil {
		s.srv.cfg.Log.Info("pop3 login refused", "mech", mech, "user", user, "authz", authz, "peer", s.peer, "err", err)
		return refusal("[AUTH] login refused")
	}
	if !s.srv.lock(name) {
		return refusal("[IN-USE] another session has this maildrop")
	}
	if err := s.open(name); err != nil {
		s.srv.unlock(name)
		var ns *mailbox.ErrNotServing
		if errors.As(err, &ns) {
			s.say("-ERR [SYS/TEMP] not serving; leader=%s", ns.Leader)
			return errQuit
		}
		if errors.Is(err, mailbox.ErrPicture) || errors.Is(err, errState) {
			s.say("-ERR [XRESUME] the maildrop is another one")
			return errQuit
		}
		var moved *mailbox.ErrMoved
		if errors.As(err, &moved) && moved.Pair != "" {
			s.say("-ERR [SYS/TEMP] not here; pair=%s", moved.Pair)
			return errQuit
		}
		s.srv.cfg.Log.Warn("pop3 maildrop cannot be opened", "account", name, "err", err)
		return refusal("[SYS/TEMP] maildrop not available, try again later")
	}
	s.name = name
	n, size := s.total()
	s.ok("%d messages, %d octets", n, size)
	return nil
}

func (s *session) open(name string) error {
	acc, err := s.srv.cfg.Mailboxes.Account(s.ctx, name)
	if err != nil {
		return err
	}
	if s.state != nil {
		s.view, s.drop, err = restore(s.ctx, acc, s.state)
		s.state = nil
		return err
	}
	view, err := acc.Open(s.ctx, "INBOX", false)
	if err != nil {
		return err
	}
	seqs := make([]int, view.Len())
	for i := range seqs {
		seqs[i] = i + 1
	}
	drop := make([]entry, 0, len(seqs))
	err = view.Rows(s.ctx, seqs, func(_ int, row *mailbox.Row) error {
		drop = append(drop, entry{uid: row.UID, size: row.Size})
		return nil
	})
	if err != nil && !errors.Is(err, mailbox.ErrExpunged) {
		view.Close()
		return err
	}
	s.view, s.drop = view, drop
	return nil
}

func (s *session) total() (n int, size int64) {
	for _, e := range s.drop {
		if !e.deleted {
			n++
			size += e.size
		}
	}
	return n, size
}

// message finds the entry that a command's argument names.
func (s *session) message(arg string) (*entry, int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(arg))
	if err != nil {
		return nil, 0, refusal("a message number is wanted")
	}
	if n < 1 || n > len(s.drop) {
		return nil, 0, refusal("no such message")
	}
	if s.drop[n-1].deleted {
		return nil, 0, refusal("message is marked as deleted")
	}
	return &s.drop[n-1], n, nil
}

func (s *session) list(arg string, show func(entry) string) error {
	if arg != "" {
		e, n, err := s.message(arg)
		if err != nil {
			return err
		}
		s.ok("%d %s", n, show(*e))
		return nil
	}
	n, size := s.total()
	s.ok("%d messages (%d octets)", n, size)
	for i, e := range s.drop {
		if !e.deleted {
			s.w.WriteString(strconv.Itoa(i + 1))
			s.w.WriteByte(' ')
			s.w.WriteString(show(e))
			s.w.WriteString("\r\n")
		}
	}
	s.w.WriteString(".\r\n")
	return nil
}

// retrieve sends a message, or its header and the first lines of its body.
func (s *session) retrieve(arg string, lines int) error {
	e, _, err := s.message(arg)
	if err != nil {
		return err
	}
	seq, ok := s.view.Seq(e.uid)
	if !ok {
		return refusal("message is gone")
	}
	begun, ended := false, false
	err = s.view.Rows(s.ctx, []int{seq}, func(_ int, row *mailbox.Row) error {
		content, err := s.view.Message(s.ctx, row)
		if err != nil {
			return err
		}
		defer content.Close()
		s.ok("%d octets", content.Size())
		begun = true
		st := stuffer{w: s.w, start: true, header: true, lines: lines}
		err = content.Stream(s.ctx, 0, content.Size(), func(piece []byte) error {
			s.extend()
			return st.write(piece)
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		err = st.end()
		ended = err == nil
		return err
	})
	switch {
	case ended: // a replica that serves no more has given the whole answer
		return nil
	case err != nil && begun:
		return cutError{err}
	case errors.Is(err, mailbox.ErrExpunged):
		return refusal("message is gone")
	}
	return err
}

// extend gives a client that reads an answer more time.
func (s *session) extend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil { // else wake has set it
		s.conn.SetWriteDeadline(time.Now().Add(s.srv.cfg.Idle))
	}
}

func (s *session) quit() error {
	if s.view == nil {
		s.ok("bye")
		return errQuit
	}
	var gone []uint32
	for _, e := range s.drop {
		if e.deleted {
			gone = append(gone, e.uid)
		}
	}
	if len(gone) > 0 {
		_, err := s.view.Expunge(s.ctx, gone, true)
		var ns *mailbox.ErrNotServing
		if errors.As(err, &ns) && s.resumes {
			return err // the other replica does it
		}
		if err != nil {
			s.srv.cfg.Log.Warn("pop3 messages not removed", "account", s.name, "err", err)
			s.say("-ERR [SYS/TEMP] some deleted messages not removed")
			return errQuit
		}
	}
	s.ok("bye")
	return errQuit
}
