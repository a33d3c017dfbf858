package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxLine bounds a line of a server's answer, maxLiteral a literal.
	maxLine    = 64 << 10
	maxLiteral = 64 << 20
	// opening is how many sessions are opened at the same time.
	opening = 16
)

// session is an IMAP session with INBOX selected.
type session struct {
	user   User
	c      net.Conn
	r      *bufio.Reader
	tag    int
	exists int // messages that the server has told of
}

func (s *session) close() {
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// open opens all sessions, each at the next relay. It fails when more of them
// fail than may.
func (r *run) open(ctx context.Context) ([]*session, error) {
	sessions := make([]*session, r.p.Sessions)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(opening, r.p.Sessions) {
		wg.Go(func() {
			for i := range next {
				sessions[i] = &session{user: r.t.Users[i%len(r.t.Users)]}
				r.login(ctx, sessions[i], i)
			}
		})
	}
	asked := 0
	for ctx.Err() == nil && asked < len(sessions) {
		next <- asked
		asked++
	}
	close(next)
	wg.Wait()
	sessions = sessions[:asked]
	if ctx.Err() != nil {
		return sessions, errors.Join(context.Cause(ctx), r.first())
	}
	if failed := r.logins.failed.Load(); float64(failed) > r.p.MaxErrors*float64(len(sessions)) {
		return sessions, fmt.Errorf("%d of %d sessions could not be opened: %w", failed, len(sessions), r.first())
	}
	return sessions, nil
}

// login opens s at the relay with the number n, counted round.
func (r *run) login(ctx context.Context, s *session, n int) {
	r.logins.asked.Add(1)
	began := time.Now()
	err := r.dial(ctx, s, r.t.IMAPS[n%len(r.t.IMAPS)].Addr)
	r.logins.count(time.Since(began), err)
	if err != nil {
		s.close()
		r.failed(fmt.Errorf("login of %s: %w", s.user.Login, err))
	}
}

func (r *run) dial(ctx context.Context, s *session, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, r.p.Timeout)
	defer cancel()
	dial := r.t.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	conf := r.t.TLS.Clone()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if conf.ServerName == "" {
		conf.ServerName, _, _ = net.SplitHostPort(addr)
	}
	c := tls.Client(raw, conf)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return err
	}
	s.c, s.r = c, bufio.NewReaderSize(c, 4096)
	s.deadline(r.p.Timeout)
	if greeting, err := s.line(); err != nil || !strings.HasPrefix(greeting, "* OK") {
		return errors.Join(fmt.Errorf("greeting %q", greeting), err)
	}
	if err := s.command("LOGIN " + quote(s.user.Login) + " " + quote(s.user.Password)); err != nil {
		return err
	}
	return s.command("SELECT INBOX")
}

func (s *session) deadline(d time.Duration) { _ = s.c.SetDeadline(time.Now().Add(d)) } // of an open connection

// poll asks for news at its times until ctx ends.
func (r *run) poll(ctx context.Context, s *session, at time.Time) {
	for n := 0; sleepUntil(ctx, at); at = at.Add(r.p.Poll) {
		if s.c == nil { // it failed before: like a client, open it again
			r.login(ctx, s, n)
			n++
			if s.c == nil {
				continue
			}
		}
		before := s.exists
		if !r.measured(s, &r.polls, at, "NOOP") || !r.p.Read || s.exists <= before {
			continue
		}
		r.measured(s, &r.fetches, time.Now(), fmt.Sprintf("FETCH %d (UID FLAGS ENVELOPE BODY.PEEK[])", s.exists))
	}
}

// measured gives one command and counts what came of it.
func (r *run) measured(s *session, c *counter, due time.Time, command string) bool {
	c.asked.Add(1)
	s.deadline(r.p.Timeout)
	err := s.command(command)
	c.count(time.Since(due), err)
	if err != nil {
		s.close()
		verb, _, _ := strings.Cut(command, " ")
		r.failed(fmt.Errorf("%s of %s: %w", verb, s.user.Login, err))
	}
	return err == nil
}

// quote makes a quoted string (RFC 9051 4.3). What it cannot hold a login has
// not got: see ReadUsers.
func quote(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
}

// command sends one command and reads until its answer.
func (s *session) command(text string) error {
	s.tag++
	tag := "b" + strconv.Itoa(s.tag)
	if _, err := io.WriteString(s.c, tag+" "+text+"\r\n"); err != nil {
		return err
	}
	for {
		answer, err := s.line()
		if err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(answer, tag+" "); ok {
			if !strings.HasPrefix(rest, "OK") {
				return fmt.Errorf("answered %q", rest)
			}
			return nil
		}
		s.note(answer)
	}
}

// note takes what the server says by itself.
func (s *session) note(answer string) {
	f := strings.Fields(answer)
	if len(f) < 3 || f[0] != "*" {
		return
	}
	n, err := strconv.Atoi(f[1])
	switch {
	case err != nil || n < 0:
	case strings.EqualFold(f[2], "EXISTS"):
		s.exists = n
	case strings.EqualFold(f[2], "EXPUNGE") && s.exists > 0:
		s.exists--
	}
}

// line reads one line of an answer, its literals read over.
func (s *session) line() (string, error) {
	var whole []byte
	for {
		part, err := s.r.ReadSlice('\n')
		whole = append(whole, part...)
		switch {
		case len(whole) > maxLine:
			return "", errors.New("the server's line is too long")
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return "", err
		}
		n, ok := literal(whole)
		if !ok {
			return strings.TrimRight(string(whole), "\r\n"), nil
		}
		if n > maxLiteral {
			return "", fmt.Errorf("the server announces %d octets", n)
		}
		if _, err := s.r.Discard(int(n)); err != nil {
			return "", err
		}
	}
}

// literal is the length of the literal that a line ends with (RFC 9051 4.3).
func literal(line []byte) (n int64, ok bool) {
	text := strings.TrimRight(string(line[max(0, len(line)-32):]), "\r\n")
	if !strings.HasSuffix(text, "}") {
		return 0, false
	}
	open := strings.LastIndexByte(text, '{')
	if open < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(text[open+1:len(text)-1], "+"), 10, 64)
	return n, err == nil && n >= 0
}
