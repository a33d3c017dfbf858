package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// Authenticate checks a login. mech is EXTERNAL, PLAIN or LOGIN; authz is the
// user to act for ("" with LOGIN and when not given), user and pass are empty
// with EXTERNAL. cs is nil without TLS. It returns the account's name,
// uid@domain, or an error: mail.Permanent says whether the credentials are
// wrong; another error is answered NO [UNAVAILABLE]. Any number of calls may
// run at once.
type Authenticate func(ctx context.Context, mech, authz, user, pass string, cs *tls.ConnectionState, peer net.Addr) (account string, err error)

// Metrics is told what happens. Calls come from many goroutines.
type Metrics interface {
	// SessionChange is called with 1 and -1 as connections come and go.
	SessionChange(delta int)
	// Login is called after each attempt.
	Login(ok bool)
	// Command is called after each command with its name, its answer (OK, NO,
	// BAD) and how long it took.
	Command(name, answer string, took time.Duration)
}

// Config is what New needs. Zero limits mean their defaults.
type Config struct {
	Mailboxes    *mailbox.Service
	Hostname     string      // in the greeting
	TLS          *tls.Config // implicit TLS; nil: plain connections
	Authenticate Authenticate
	// PasswordLogin offers LOGIN and AUTHENTICATE PLAIN beside EXTERNAL: for
	// plain loopback listeners of development and measuring.
	PasswordLogin bool
	Log           *slog.Logger // nil: slog.Default
	Metrics       Metrics      // nil: none

	MaxSessions        int           // connections at once; default 20,000
	SessionsPerAccount int           // default 100
	MaxAppend          int64         // octets of one message; default 50 MB (2^20)
	AppendMemory       int64         // octets of messages being received by all sessions; default 256 MB
	IdleTimeout        time.Duration // between commands and in IDLE; default 30 min
	LoginTimeout       time.Duration // from connection to login; default 60 s
	IOTimeout          time.Duration // one read inside a command, one write; default 5 min
	KeepAlive          time.Duration // between untagged OK in IDLE; default 2 min
	AuthDelay          time.Duration // before the answer to a wrong login, doubled each time; default 1 s
}

func (c *Config) setDefaults() error {
	if c.Mailboxes == nil || c.Authenticate == nil {
		return errors.New("imapd: Config needs Mailboxes and Authenticate")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Hostname == "" {
		c.Hostname = "localhost"
	}
	setDefault(&c.MaxSessions, 20000)
	setDefault(&c.SessionsPerAccount, 100)
	setDefault(&c.MaxAppend, 50<<20)
	setDefault(&c.AppendMemory, 256<<20)
	setDefault(&c.IdleTimeout, 30*time.Minute)
	setDefault(&c.LoginTimeout, time.Minute)
	setDefault(&c.IOTimeout, 5*time.Minute)
	setDefault(&c.KeepAlive, 2*time.Minute)
	setDefault(&c.AuthDelay, time.Second)
	return nil
}

func setDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Limits that are not configured.
const (
	loginLiteral   = 4 << 10  // octets of literals of a command before login
	commandLiteral = 64 << 10 // the same after login, APPEND's messages apart
	skipBound      = 1 << 20  // octets of a refused non-synchronising literal or line that are read
	maxTag         = 128      // octets
	maxBad         = 10       // BAD in a row
	maxLogins      = 3        // wrong logins of a connection
	maxMultiAppend = 512      // messages of one APPEND, as many as package mailbox takes
)
