package netns

import (
	"context"
	"net"
	"sync"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/shared/smtp"
)

// elsewhere is a mail server of somebody else, in the dmz, where the Internet is.
const (
	elsewhereDomain  = "elsewhere.test"
	elsewhereAddress = "somebody@" + elsewhereDomain
	// maxTexts bounds what it keeps.
	maxTexts = 1000
)

// inbox keeps what arrives.
type inbox struct {
	mu    sync.Mutex
	texts []string
}

func (b *inbox) server() (*smtp.Server, error) {
	return smtp.NewServer(smtp.ServerConfig{
		Protocol: smtp.SMTP, Hostname: elsewhereDomain, Limits: smtp.DefaultLimits(),
		NewSession: func(context.Context, *smtp.ConnInfo) (smtp.Session, error) { return visit{b}, nil },
	})
}

// visit is a session that takes everything.
type visit struct{ b *inbox }

func (visit) Hello(context.Context, *smtp.ConnInfo) error { return nil }
func (visit) Auth(context.Context, string, string, string, string) (string, error) {
	return "", &smtp.Reply{Code: 502, Text: "no"}
}
func (visit) Mail(context.Context, *smtp.MailArgs) error { return nil }
func (visit) Rcpt(context.Context, *smtp.RcptArgs) error { return nil }
func (visit) Reset()                                     {}
func (visit) Close()                                     {}

func (v visit) Data(_ context.Context, m *smtp.Message) []*smtp.Reply {
	v.b.mu.Lock()
	defer v.b.mu.Unlock()
	if len(v.b.texts) >= maxTexts {
		return []*smtp.Reply{{Code: 452, Text: "full"}}
	}
	v.b.texts = append(v.b.texts, string(m.Bytes))
	return []*smtp.Reply{{Code: 250, Text: "OK"}}
}

// serveElsewhere runs the server in the namespace of the world.
func (lab *Lab) serveElsewhere(ctx context.Context) error {
	s, err := lab.inbox.server()
	if err != nil {
		return err
	}
	var l net.Listener
	if err := within(lab.f.ns(worldHost), func() (err error) {
		l, err = net.Listen("tcp", at(lab.l.addr[worldHost], portSMTP))
		return err
	}); err != nil {
		return err
	}
	lab.servers.Go(func() { _ = s.Serve(ctx, l) }) // its end is seen as mail that does not arrive
	return nil
}

// Submission is that of the first relay.
func (lab *Lab) Submission() string { return at(lab.l.addr[lab.l.relays[0]], portSubmission) }

// Elsewhere is a recipient of a server found by DNS, and what it has got.
func (lab *Lab) Elsewhere() (string, []string) {
	lab.inbox.mu.Lock()
	defer lab.inbox.mu.Unlock()
	return elsewhereAddress, append([]string(nil), lab.inbox.texts...)
}

var _ drill.Elsewhere = (*Lab)(nil)
