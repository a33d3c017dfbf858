package imapd

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/mail"
)

func (s *session) login() error {
	p := &s.p
	p.SP()
	user := p.AString()
	p.SP()
	password := p.AString()
	if err := p.End(); err != nil {
		return err
	}
	if !s.srv.cfg.PasswordLogin {
		return no("PRIVACYREQUIRED", "Passwords are not taken here")
	}
	// The rules of SASL PLAIN hold: UTF-8, no control characters.
	cred, err := auth.DecodePlain([]byte("\x00" + string(user) + "\x00" + string(password)))
	if err != nil {
		return s.refuseLogin(err)
	}
	cred.Mechanism = auth.Login
	return s.enter(cred)
}

func (s *session) authenticate() error {
	p := &s.p
	p.SP()
	mechanism := strings.ToUpper(string(p.Atom()))
	var response []byte
	if p.Peek() == ' ' { // RFC 4959
		p.SP()
		response = s.base64(p.Until('\r'))
		if response == nil {
			p.Fail("not base64")
		}
		if err := p.Err(); err != nil {
			return err
		}
		if text := s.r.Text(); p.Offset() != len(text)-1 {
			return bad("End of command expected")
		}
	} else if err := p.End(); err != nil {
		return err
	}
	if mechanism != auth.External && (mechanism != auth.Plain || !s.srv.cfg.PasswordLogin) {
		return no("CANNOT", "Mechanism not offered")
	}
	x, err := auth.NewExchange(mechanism)
	if err != nil {
		return no("CANNOT", "Mechanism not offered")
	}
	for {
		challenge, done, err := x.Next(response)
		if err != nil {
			return s.refuseLogin(err)
		}
		if done {
			return s.enter(x.Credentials())
		}
		if response, err = s.ask(challenge); err != nil {
			return err
		}
	}
}

// ask sends a challenge and reads the response to it.
func (s *session) ask(challenge []byte) ([]byte, error) {
	s.w.WriteString("+ ")
	s.w.WriteString(base64.StdEncoding.EncodeToString(challenge))
	s.w.WriteString("\r\n")
	if err := s.flush(); err != nil {
		return nil, err
	}
	s.r.Begin()
	line, err := s.r.Line()
	if errors.Is(err, imapwire.ErrLineTooLong) {
		return nil, bye("", "Line too long")
	}
	if err != nil {
		return nil, ioError{err}
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if string(line) == "*" {
		return nil, &reply{status: "BAD", text: "Authentication given up", mild: true}
	}
	response := s.base64(line)
	if response == nil {
		return nil, bad("Not base64")
	}
	return response, nil
}

// base64 decodes a response; "=" is an empty one. It returns nil for what is
// not base64.
func (s *session) base64(b []byte) []byte {
	if string(b) == "=" {
		return []byte{}
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(b)))
	n, err := base64.StdEncoding.Decode(out, b)
	if err != nil {
		return nil
	}
	return out[:n]
}

// enter asks whether the credentials are right and opens the account.
func (s *session) enter(cred auth.Credentials) error {
	cfg := &s.srv.cfg
	name, err := cfg.Authenticate(s.ctx, cred.Mechanism, cred.Authz, cred.User, cred.Password, s.conn.tls, s.conn.raw.RemoteAddr())
	if err != nil {
		if mail.Permanent(err) {
			return s.refuseLogin(err)
		}
		cfg.Log.Warn("imap login not possible", "user", cred.User, "authz", cred.Authz, "peer", s.peer(), "err", err)
		return s.loginUnavailable(err)
	}
	account, err := cfg.Mailboxes.Account(s.ctx, name)
	if errors.Is(err, mailbox.ErrBadName) || errors.Is(err, mailbox.ErrNoAccount) {
		return s.refuseLogin(err)
	}
	if err != nil {
		cfg.Log.Info("imap account not available", "account", name, "peer", s.peer(), "err", err)
		return s.loginUnavailable(err)
	}
	if !s.srv.enter(account.Name()) {
		cfg.Log.Warn("imap account has too many sessions", "account", account.Name(), "peer", s.peer())
		return no("LIMIT", "Too many sessions of this user")
	}
	s.account = account
	s.conn.until = time.Time{}
	if cfg.Metrics != nil {
		cfg.Metrics.Login(true)
	}
	cfg.Log.Debug("imap login", "account", account.Name(), "mechanism", cred.Mechanism, "peer", s.peer())
	s.code, s.text = "[CAPABILITY "+s.capabilities()+"]", "Logged in"
	return nil
}

// loginUnavailable is the answer to a login that says nothing about the
// credentials. A proxy finds the replica to ask in it.
func (s *session) loginUnavailable(err error) error {
	if s.srv.cfg.Metrics != nil {
		s.srv.cfg.Metrics.Login(false)
	}
	text := "Mailbox not available now, try again later"
	var moved *mailbox.ErrMoved
	if errors.As(err, &moved) && moved.Pair != "" {
		text = "Mailbox is not here; pair=" + moved.Pair
	}
	var not *mailbox.ErrNotServing
	if errors.As(err, &not) {
		text = "This replica does not serve now"
		if not.Leader != "" {
			text += "; leader=" + not.Leader
		}
	}
	return no("UNAVAILABLE", text)
}

// refuseLogin answers wrong credentials, each time later.
func (s *session) refuseLogin(err error) error {
	cfg := &s.srv.cfg
	if cfg.Metrics != nil {
		cfg.Metrics.Login(false)
	}
	cfg.Log.Info("imap login refused", "peer", s.peer(), "err", err)
	wait := time.NewTimer(cfg.AuthDelay << s.refused)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-s.ctx.Done():
	}
	if s.refused++; s.refused >= maxLogins {
		s.tagged("NO", "[AUTHENTICATIONFAILED]", "Login refused")
		return bye("", "Too many refused logins")
	}
	return no("AUTHENTICATIONFAILED", "Login refused")
}
