package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Protocol is what a listener or a connection speaks.
type Protocol int

// The two protocols of this engine.
const (
	SMTP Protocol = iota // RFC 5321
	LMTP                 // RFC 2033: LHLO, one reply per recipient after the dot
)

// Reply is one SMTP reply. It is an error so that hooks can return it.
type Reply struct {
	Code   int
	Status mail.Status // printed when ENHANCEDSTATUSCODES applies and not zero
	Text   string      // lines separated by \n; control bytes are replaced on the wire
	Close  bool        // close the connection after this reply (421 always does)
}

func (r *Reply) Error() string {
	s := strconv.Itoa(r.Code)
	if st := r.Status.String(); st != "" {
		s += " " + st
	}
	return s + " " + strings.ReplaceAll(r.Text, "\n", " / ")
}

// Temporary reports whether the peer may try again.
func (r *Reply) Temporary() bool { return r.Code >= 400 && r.Code < 500 }

// OK reports a reply of class 2.
func (r *Reply) OK() bool { return r.Code >= 200 && r.Code < 300 }

// ReplyFor turns any error into a reply: a *Reply in its chain as it is, a *mail.Error by
// its code and status, anything else 451 4.3.0 without its text.
func ReplyFor(err error) *Reply {
	var r *Reply
	if errors.As(err, &r) {
		return r
	}
	e := mail.AsError("smtp", err)
	return &Reply{Code: e.ReplyCode(), Status: e.Status, Text: e.Reply}
}

// Limits bound what one peer can make the server do. Zero fields take the
// defaults of DefaultLimits.
type Limits struct {
	Line            int           // octets of a command line with CRLF; RFC 5321 says at least 512
	Header          int           // octets of the header block
	HeaderLine      int           // octets of one line of the message; 0 = no limit (RFC 5321 says 1,000 but real mail is longer)
	Recipients      int           // accepted recipients per transaction, 452 4.5.3 past it
	Size            int64         // octets of a message, 552 5.3.4 past it
	Errors          int           // refused commands before 421
	Transactions    int           // transactions per session before 421
	CommandTimeout  time.Duration // from one command to the next
	DataTimeout     time.Duration // between two reads of DATA
	DataTotal       time.Duration // the whole of DATA
	HandshakeTimout time.Duration // TLS handshake and PROXY header
	SessionTotal    time.Duration // the whole session
}

// DefaultLimits are the limits of a public listener.
func DefaultLimits() Limits {
	return Limits{
		Line: 4096, Header: 256 << 10, Recipients: 1000, Size: 50 << 20, Errors: 20, Transactions: 10000,
		CommandTimeout: 5 * time.Minute, DataTimeout: 3 * time.Minute, DataTotal: 30 * time.Minute,
		HandshakeTimout: 15 * time.Second, SessionTotal: 24 * time.Hour,
	}
}

// LineEnds says what is done with a bare CR or LF in a message.
type LineEnds int

const (
	// RejectBare refuses the message with 550 5.5.2 (the default).
	RejectBare LineEnds = iota
	// NormalizeBare turns each bare CR or LF into CRLF, for listed peers only.
	NormalizeBare
)

// ServerConfig describes one service. It is read, never changed, by Server.
type ServerConfig struct {
	Protocol Protocol
	Hostname string // in the banner and in replies
	Limits   Limits
	Log      *slog.Logger

	// TLS is offered as STARTTLS when not nil; Implicit starts it at once.
	TLS         *tls.Config
	ImplicitTLS bool
	RequireTLS  bool // MAIL before TLS is answered 530 5.7.0

	// Mechanisms are the AUTH mechanisms offered, in order: PLAIN, LOGIN,
	// EXTERNAL. PLAIN and LOGIN are offered only inside TLS unless
	// PlainWithoutTLS says that this peer may.
	Mechanisms      []string
	PlainWithoutTLS func(peer netip.AddrPort) bool

	// TrustProxy says that this TCP peer must start with a PROXY header (v1 or
	// v2); without one the connection is closed. TrustXCLIENT says that this
	// host may use XCLIENT; it is asked about the client that PROXY named, if
	// any, and never about one that XCLIENT named. Nil trusts nobody.
	TrustProxy   func(peer netip.AddrPort) bool
	TrustXCLIENT func(peer netip.AddrPort) bool

	// LineEnds is asked about the client of a message that has bare line ends;
	// nil is RejectBare.
	LineEnds func(peer netip.AddrPort) LineEnds

	// Private capability line ("X-TT 1") and the private parameters that then
	// are understood on MAIL and RCPT; a parameter not listed is 555 5.5.4.
	// They are offered only where PrivateFor says so (nil: nowhere). Their
	// values travel as xtext: any UTF-8 without control characters.
	Private     string
	PrivateMail []string
	PrivateRcpt []string
	PrivateFor  func(c *ConnInfo) bool

	// Admit is asked before memory for a message of up to n octets is taken and
	// returns its release. An error is the reply to DATA, BDAT or MAIL (452).
	Admit func(n int64) (release func(), err error)

	// NewSession is the hook at connect, before the banner. A *Reply error is
	// sent instead of the banner and the connection closed; any other closes
	// it with 421.
	NewSession func(ctx context.Context, c *ConnInfo) (Session, error)
}

// ConnInfo is what is known of a connection. The engine changes it only
// between two calls of the session.
type ConnInfo struct {
	ID       string // for logs
	Protocol Protocol
	Local    netip.AddrPort // where the peer connected to
	Remote   netip.AddrPort // the client, after PROXY or XCLIENT
	Peer     netip.AddrPort // the TCP peer itself
	Helo     string
	ESMTP    bool
	TLS      *tls.ConnectionState // nil in the clear
	AuthUser string               // canonical login, set by the engine after Auth
	XClient  map[string]string
}

// Session answers the verbs of one connection. Calls never overlap. Errors
// become replies by ReplyFor; nil means the usual 250.
type Session interface {
	// Hello follows EHLO, HELO or LHLO.
	Hello(ctx context.Context, c *ConnInfo) error
	// Auth checks a password (PLAIN, LOGIN) or an identity (EXTERNAL, where
	// password is empty and the certificate is in c.TLS). authz is empty or the
	// identity asked for. It returns the canonical login name.
	Auth(ctx context.Context, mech, authz, user, password string) (login string, err error)
	// Mail begins a transaction.
	Mail(ctx context.Context, m *MailArgs) error
	// Rcpt adds a recipient.
	Rcpt(ctx context.Context, r *RcptArgs) error
	// Data gets the whole message. In SMTP it returns one reply; in LMTP one
	// for each accepted recipient in the order of Rcpt, missing ones becoming
	// 451 4.3.0. The message's bytes are the engine's again when Data returns,
	// unless Retain was called.
	Data(ctx context.Context, m *Message) []*Reply
	// Reset ends a transaction that did not reach Data, or follows it.
	Reset()
	// Close ends the session. It is called once, always.
	Close()
}

// MailArgs are the arguments of MAIL.
type MailArgs struct {
	From       mail.Address
	Size       int64 // -1 when not given
	Body       mail.BodyType
	SMTPUTF8   bool
	Ret        string // FULL, HDRS or ""
	EnvelopeID string // decoded ENVID
	Auth       string // decoded AUTH=, "<>" or an address
	Private    map[string]string
}

// RcptArgs are the arguments of RCPT.
type RcptArgs struct {
	To                mail.Address
	Notify            mail.Notify
	OriginalRecipient string // "type;address", decoded from xtext
	Private           map[string]string
}

// Message is a message as received: CRLF line ends only, dots unstuffed, no
// NUL. A message that BDAT left without a last CRLF has one. The Message is
// valid until Data returns, and so are its Bytes unless Retain was called.
type Message struct {
	Bytes    []byte
	EightBit bool // holds an octet above 127
	buf      *bodyBuffer
	retained bool
}

// ClientConfig describes how a client talks to its peers.
type ClientConfig struct {
	Protocol   Protocol
	Hello      string      // name for EHLO or LHLO
	TLS        *tls.Config // with Implicit: at once; else STARTTLS when offered
	Implicit   bool
	RequireTLS bool
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
	// Deadlines of the phases, RFC 5321 4.5.3.2; zero takes the defaults.
	Connect, Command, DataInit, DataBlock, DataDone time.Duration
}

// Transaction is one message for one connection.
type Transaction struct {
	Mail  MailArgs
	Rcpts []RcptArgs
	// Body is sent in order, with strict CRLF; the client dot-stuffs for DATA
	// or sends it as one BDAT chunk when the peer offers CHUNKING and UseBDAT.
	Body    [][]byte
	UseBDAT bool
}

// Result holds the peer's answers; see Final for what they mean together.
type Result struct {
	Mail  *Reply   // nil when none arrived or nothing was sent
	Rcpts []*Reply // in the order of Transaction.Rcpts; nil where none arrived
	// Data is empty when no message was asked for. In SMTP it has one reply. In
	// LMTP it is in the order of Transaction.Rcpts, nil for those refused at RCPT
	// and where no answer arrived: the outcome is then unknown.
	Data []*Reply
	// Sent reports that the final dot may have reached the peer, so that
	// missing answers are unknown outcomes and not failures.
	Sent bool
	lmtp bool
}
