package lmtpd

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/message"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

// maxRecipients bounds one transaction; a relay sends at most 2,000.
const maxRecipients = 2000

// Mailboxes is what the server needs of package mailbox. Any number of calls
// may run at once.
type Mailboxes interface {
	Ready(ctx context.Context) error
	Deliver(ctx context.Context, d *mailbox.Delivery) ([]mailbox.DeliveryResult, error)
	Known(d *mailbox.Delivery, name mailbox.BodyName) *mailbox.Known
}

// Config describes an LMTP listener.
type Config struct {
	Mailboxes  Mailboxes
	Hostname   string
	Pair       string      // for the figures
	Domain     string      // completes a recipient without a domain
	TLS        *tls.Config // spoken at once, with client certificates; nil: plain, for measuring on loopback only
	PrivateFor func(c *smtp.ConnInfo) bool
	MaxMessage int64         // octets, 50 MB
	Commit     time.Duration // how long a commit may take, 30 s
	Log        *slog.Logger
	Mail       *maillog.Log // told of each recipient stored; nil: nobody
}

// Server serves LMTP.
type Server struct {
	cfg    Config
	engine *smtp.Server
}

// New checks cfg.
func New(cfg Config) (*Server, error) {
	if cfg.Mailboxes == nil {
		return nil, errors.New("lmtpd: Mailboxes is required")
	}
	if cfg.Commit == 0 {
		cfg.Commit = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	limits := smtp.DefaultLimits()
	limits.Recipients = maxRecipients
	if cfg.MaxMessage > 0 {
		limits.Size = cfg.MaxMessage
	}
	limits.Transactions = 1 << 30 // relays keep their connections
	limits.Errors = 1 << 30       // each recipient behind a refused MAIL is one
	s := &Server{cfg: cfg}
	engine, err := smtp.NewServer(smtp.ServerConfig{
		Protocol: smtp.LMTP, Hostname: cfg.Hostname, Limits: limits, Log: cfg.Log,
		TLS: cfg.TLS, ImplicitTLS: cfg.TLS != nil,
		Private: "X-TT 1 XVACATION XCLAIM XPART XWELCOME XBODY XPOSTER", PrivateMail: []string{"XTRACE", "XTIME", "XBODY"},
		PrivateRcpt: []string{"XKEY", "XFOLDER", "XQUOTA", "XFLAGS", "XDFLG", "XVACATION", "XCLAIM", "XPART", "XWELCOME", "XPOSTER"}, PrivateFor: cfg.PrivateFor,
		NewSession: func(context.Context, *smtp.ConnInfo) (smtp.Session, error) { return &session{srv: s}, nil },
	})
	if err != nil {
		return nil, err
	}
	s.engine = engine
	return s, nil
}

// Serve accepts connections until l is closed or ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return s.engine.Serve(ctx, l) }

// Shutdown answers new commands with 421 and waits for running transactions.
func (s *Server) Shutdown(ctx context.Context) error { return s.engine.Shutdown(ctx) }

type session struct {
	srv   *Server
	d     mailbox.Delivery
	addrs []mail.Address // as given at RCPT
}

func (s *session) Hello(context.Context, *smtp.ConnInfo) error { return nil }

func (s *session) Auth(context.Context, string, string, string, string) (string, error) {
	return "", &smtp.Reply{Code: 502, Status: mail.StatusInvalidCommand, Text: "No AUTH here"}
}

// Mail refuses at once where it is known that another replica serves, before
// the message travels.
func (s *session) Mail(ctx context.Context, m *smtp.MailArgs) error {
	if err := s.srv.cfg.Mailboxes.Ready(ctx); err != nil {
		return s.srv.reply(err)
	}
	s.d.ReversePath = m.From
	s.d.Trace = message.AppendReturnPath(s.d.Trace[:0], m.From) // RFC 5321 4.4
	s.d.TraceID = m.Private["XTRACE"]
	if v := m.Private["XTIME"]; v != "" {
		ns, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return badParameter("XTIME")
		}
		s.d.Arrival = time.Unix(0, ns)
	}
	return s.body(m.Private["XBODY"])
}

// errUnknownBody asks for the message itself.
var errUnknownBody = &smtp.Reply{Code: 451, Status: mail.StatusUnknownBody, Text: "No such message here, send it"}

// body reads XBODY: the message may be named by more transactions, or it is
// the one with this name.
func (s *session) body(v string) error {
	if v == "" || v == "new" {
		s.d.Named = v != ""
		return nil
	}
	var name mailbox.BodyName
	if n, err := hex.Decode(name[:], []byte(v[:min(len(v), 2*len(name))])); err != nil || n != len(name) || len(v) != 2*n {
		return badParameter("XBODY")
	}
	if s.d.Same = s.srv.cfg.Mailboxes.Known(&s.d, name); s.d.Same == nil {
		return errUnknownBody
	}
	return nil
}

func badParameter(name string) error {
	return &smtp.Reply{Code: 501, Status: mail.StatusBadParameter, Text: "Bad value of " + name}
}

func (s *session) Rcpt(_ context.Context, a *smtp.RcptArgs) error {
	r := mailbox.DeliveryRecipient{Account: s.srv.account(a.To)}
	for key, v := range a.Private {
		if !private(&r, key, v) {
			return badParameter(key)
		}
	}
	if v, ok := a.Private["XCLAIM"]; ok && (r.Autoreply == nil || r.Autoreply.ReadClaim(v) != nil) {
		return badParameter("XCLAIM")
	}
	s.d.Recipients = append(s.d.Recipients, r)
	s.addrs = append(s.addrs, a.To)
	return nil
}

func (s *Server) account(a mail.Address) string {
	domain := a.Domain
	if domain == "" {
		domain = s.cfg.Domain
	}
	return strings.ToLower(a.Local) + "@" + strings.ToLower(domain)
}

// private reads one private parameter of RCPT.
func private(r *mailbox.DeliveryRecipient, key, v string) (ok bool) {
	switch key {
	case "XKEY":
		n, err := hex.Decode(r.Key[:], []byte(v[:min(len(v), 2*len(r.Key))]))
		return err == nil && n == len(r.Key) && len(v) == 2*n
	case "XFOLDER":
		r.Folder = v
	case "XQUOTA":
		octets, rest, _ := strings.Cut(v, ",")
		count, stamp, _ := strings.Cut(rest, ",")
		b, err1 := strconv.ParseInt(octets, 10, 64)
		m, err2 := strconv.ParseInt(count, 10, 64)
		if err1 != nil || err2 != nil || len(stamp) > 128 {
			return false
		}
		r.Quota = &mail.Quota{Bytes: b, Messages: m, Stamp: stamp}
	case "XFLAGS":
		for name := range strings.SplitSeq(v, ",") {
			bit, known := flagBits[strings.ToLower(name)]
			if !known {
				return false
			}
			r.Flags |= bit
		}
	case "XDFLG":
		n, err := strconv.ParseUint(v, 10, 16)
		r.Force = n&2 != 0
		return err == nil
	case "XPART":
		return v != "" && len(v) <= maxPartition && printable(v)
	case "XPOSTER":
		r.Poster = strings.Split(v, " ")
		return !slices.ContainsFunc(r.Poster, func(id string) bool { return id == "" || len(id) > maxIdentity || !utf8.ValidString(id) })
	case "XWELCOME":
		r.Welcome = v == "1"
		return r.Welcome
	case "XVACATION":
		q, err := mail.ParseAutoreplyQuery(v)
		r.Autoreply = &q
		return err == nil
	}
	return true
}

// Bounds, in octets, of the name of a partition and of an identity.
const (
	maxPartition = 64
	maxIdentity  = 320
)

func printable(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

var flagBits = map[string]mailbox.Flags{
	`\seen`: mailbox.FlagSeen, `\answered`: mailbox.FlagAnswered, `\flagged`: mailbox.FlagFlagged,
	`\deleted`: mailbox.FlagDeleted, `\draft`: mailbox.FlagDraft,
}

func (s *session) Data(ctx context.Context, m *smtp.Message) []*smtp.Reply {
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.Commit)
	defer cancel()
	began, size := time.Now(), len(m.Bytes)
	s.d.Message = m.Bytes
	var results []mailbox.DeliveryResult
	var err error
	switch {
	case s.d.Same == nil:
		results, err = s.commit(ctx)
	case size > 0: // it would be lost
		err = errBodyTwice
	default:
		size = int(s.d.Same.Size())
		results, err = s.commit(ctx)
	}
	replies := make([]*smtp.Reply, len(s.d.Recipients))
	for i := range replies {
		if err != nil {
			replies[i] = s.srv.reply(err)
		} else {
			replies[i] = s.srv.result(&s.d.Recipients[i], s.addrs[i], &results[i])
		}
	}
	s.note(results, replies, err, size, began)
	return replies
}

var errBodyTwice = &mail.Error{
	Op: "lmtpd.Data", Code: 451, Status: mail.StatusNotServing, Reply: "The message was named, and another one sent",
}

// note counts what became of a transaction and tells the mail log of what was
// stored, one event a recipient.
func (s *session) note(results []mailbox.DeliveryResult, replies []*smtp.Reply, err error, size int, began time.Time) {
	stored := 0
	for i, r := range replies {
		metrics.LMTPDeliveries.With(s.srv.cfg.Pair, class(r.Code)).Inc()
		if !r.OK() {
			continue
		}
		stored++
		res := &results[i]
		if res.Duplicate {
			metrics.LMTPDuplicates.With(s.srv.cfg.Pair).Inc()
		}
		if s.srv.cfg.Mail == nil {
			continue
		}
		e := maillog.Event{
			TraceID: s.d.TraceID, ReversePath: s.d.ReversePath, NullSender: s.d.ReversePath.IsNull(), Recipient: s.addrs[i],
			Code: r.Code, Status: r.Status, Size: int64(size), Delay: time.Since(began), Reply: r.Text,
		}
		if q := s.d.Recipients[i].Autoreply; q != nil && q.By != (mail.DeliveryKey{}) {
			continue // no mail
		}
		if res.UID == 0 { // for its answer only
			s.srv.cfg.Mail.Discarded(e)
			continue
		}
		e.Reply = fmt.Sprintf("%s in %s, uid %d", r.Text, res.Mailbox, res.UID)
		s.srv.cfg.Mail.Stored(e)
	}
	if stored > 0 {
		metrics.LMTPBytes.With(s.srv.cfg.Pair).Add(float64(size))
	}
	if stored < len(replies) {
		s.srv.cfg.Log.Info("lmtp delivery", "trace", s.d.TraceID, "reverse_path", s.d.ReversePath.String(),
			"recipients", len(replies), "refused", len(replies)-stored, "size", size, "took", time.Since(began), "err", err)
	}
}

// class is the label of a reply code in the metrics: "2", "4" or "5".
func class(code int) string { return string(rune('0' + code/100%10)) }

func (s *session) Reset() {
	clear(s.d.Recipients)
	s.d = mailbox.Delivery{Recipients: s.d.Recipients[:0], Trace: s.d.Trace[:0]}
	s.addrs = s.addrs[:0]
}

func (s *session) Close() {}

// result is the reply for one recipient of a delivery that was tried.
func (s *Server) result(r *mailbox.DeliveryRecipient, a mail.Address, res *mailbox.DeliveryResult) *smtp.Reply {
	if res.Err != nil {
		return s.reply(res.Err)
	}
	text := "<" + a.String() + "> delivered"
	switch {
	case res.UID == 0:
		text = "<" + a.String() + "> not stored, as its owner wishes"
	case res.Duplicate:
		text += ", by an earlier attempt"
	case res.Refused:
		text += " to INBOX, the folder does not take it from who posts"
	case r.Folder != "" && res.Mailbox == "INBOX" && !strings.EqualFold(r.Folder, "INBOX"):
		text += " to INBOX, there is no such folder"
	}
	if res.Created != 0 {
		text += " welcome=" + strconv.FormatInt(res.Created, 10)
	}
	if r.Autoreply != nil {
		if res.Answer {
			text += " vacation=reply"
		} else {
			text += " vacation=none"
		}
	}
	return &smtp.Reply{Code: 250, Status: mail.StatusDelivered, Text: text}
}

// reply is the answer that an error of package mailbox gets (two-tier.md 3.2).
func (s *Server) reply(err error) *smtp.Reply {
	var ns *mailbox.ErrNotServing
	var classified *mail.Error
	var moved *mailbox.ErrMoved
	switch {
	case errors.As(err, &moved) && moved.Pair == "":
		return &smtp.Reply{Code: 451, Status: mail.Status{4, 2, 1}, Text: "mailbox moves, try again"}
	case errors.As(err, &moved):
		return &smtp.Reply{Code: 451, Status: mail.StatusNotServing, Text: "not mine; pair=" + moved.Pair + " epoch=" + strconv.FormatInt(moved.Epoch, 10)}
	case errors.As(err, &ns):
		text := "not serving"
		if ns.Leader != "" {
			text += "; leader=" + ns.Leader
		}
		return &smtp.Reply{Code: 451, Status: mail.StatusNotServing, Text: text}
	case errors.As(err, &classified):
		return smtp.ReplyFor(classified)
	case errors.Is(err, mailbox.ErrTooBig):
		return &smtp.Reply{Code: 552, Status: mail.StatusTooBig, Text: "Message too big for the store"}
	case errors.Is(err, mailbox.ErrNoRoom):
		return &smtp.Reply{Code: 452, Status: mail.StatusSystemFull, Text: "No room for mail, try again later"}
	case errors.Is(err, mailbox.ErrBusy):
		return &smtp.Reply{Code: 452, Status: mail.StatusSystemFull, Text: "Too much in flight, try again"}
	}
	return &smtp.Reply{Code: 451, Status: mail.StatusNoQuorum, Text: "Not committed in time, outcome unknown"}
}
