package milter

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/smtp"
)

// TestLikePostfix: a filter is told the same as by Postfix, and what it answers
// has the same effect. testdata/postfix.json is what Postfix does, as a test of
// integration/interop sees to.
func TestLikePostfix(t *testing.T) {
	all := t
	filters := map[string]*python{}
	for _, s := range peertest.MilterSessions(t, "testdata/postfix.json") {
		t.Run(s.Name, func(t *testing.T) {
			key := strings.Join(s.Options, " ")
			p := filters[key]
			if p == nil {
				p = startPython(all, s.Options...)
				filters[key] = p
			}
			want := strings.NewReplacer(ours[s.Name]...).Replace(queueID.Replace(marshal(s)))
			os.Remove(p.log)
			converse(t, newFilter(t, Config{
				Address: p.addr, Hostname: "mx.test",
				Host: func(context.Context, netip.Addr) (string, bool) {
					if s.Host == "none" {
						return "", false
					}
					return "host.client.test", s.Host == ""
				},
			}), s)
			s.Events = peertest.MilterEvents(t, p.log, 1)
			if got := queueID.Replace(marshal(s)); got != want {
				t.Errorf("%s", diff(want, got))
			}
		})
	}
}

// ours is what we do on purpose where Postfix does something else, as replacements
// of text in what it does.
var ours = map[string][]string{
	// Postfix says abort after the end of a message and of a session as well, which
	// libmilter hides from filters that heard of the sender.
	"nothing wanted": {`
		"abort",
		"abort",`, ""},
	// A message that is not changed gets no empty line.
	"no header": {`"Stored": [
				"",`, `"Stored": [`},
	"line that is no field": {`
				"",
				"what is this"`, `
				"what is this"`},
	"line that continues nothing": {`"Stored": [
				"",`, `"Stored": [`},
	// Lines of white space end a header for some, bare CR is none of mail.
	"value with lines": {`"\tb\r"`, `"\tb"`, `
				"\t",`, ""},
	"value with empty lines": {`
				"\t",`, "", `
				" ",`, ""},
	"value with carriage returns": {`"X-A: a\rb"`, `"X-A: a",
				"\tb"`, `"X-B: \ra\r",
				"\t\r"`, `"X-B: ",
				"\ta"`},
	"odd names": {`
				"X Y: a",
				"X-Z : a",
				"X:Y: a",`, ""},
	"two bodies with something between": {`"451 4.3.5 Server configuration problem - try again later"
			]`, `""
			],
			"Stored": [
				"From: Ann <ann@client.test>",
				"Subject: one",
				"X-Do: [\"eom\",\"replacebody\",\"one\\r\\n\"]",
				"X-Do: [\"eom\",\"addheader\",\"X\",\"y\"]",
				"X-Do: [\"eom\",\"replacebody\",\"two\\r\\n\"]",
				"X: y",
				"",
				"one",
				"two"
			],
			"Sender": "ann@client.test",
			"Recipients": [
				"eva@example.com"
			]`},
	// Postfix makes addresses of what is none.
	"bad addresses": {`"ab@mx.test"`, `"ann@client.test"`, `
				"\"<x\"@mx.test",`, "", `"ok@example.com",
				"x@mx.test"`, `"ok@example.com"`},
}

// queueID is there at MAIL already here, and at RCPT in Postfix. TestDialogue says
// where it has to be.
var queueID = strings.NewReplacer(" i=ID", "", " -i", "")

// converse is the session, and fills in what becomes of the messages.
func converse(t *testing.T, f *Filter, s *peertest.MilterSession) {
	ctx := t.Context()
	c := &policy.Client{
		Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("127.0.0.1:25"),
		Helo: s.Helo, ESMTP: true, Service: "mx",
	}
	if s.Addr != "" {
		c.Remote = netip.AddrPortFrom(netip.MustParseAddr(s.Addr), 4711)
	}
	session := open(t, f, c)
	defer session.Close()
	session.Hello(ctx, c)
	if s.TLS {
		c.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
		session.Hello(ctx, c)
	}
	for _, m := range s.Messages {
		m.Replies, m.Stored, m.Sender, m.Recipients, m.Held = nil, nil, "", nil, false
		say := func(err error) bool {
			if err == nil {
				m.Replies = append(m.Replies, "")
				return true
			}
			m.Replies = append(m.Replies, reply(smtp.ReplyFor(err)))
			return false
		}
		from, params, _ := strings.Cut(m.From, " ")
		cmd := &policy.Mail{QueueID: "4F7A21"}
		if from != "" {
			cmd.From = addr(from)
		}
		if params != "" {
			cmd.Size, cmd.Body = 1234, mail.Body8BitMIME
		}
		if !say(session.Mail(ctx, c, cmd)) {
			continue
		}
		var rcpts []mail.Address
		for _, to := range m.To {
			if a := addr(to); say(session.Rcpt(ctx, a)) {
				rcpts = append(rcpts, a)
			}
		}
		if m.Text == nil {
			session.Reset()
			continue
		}
		v := session.Message(ctx, [][]byte{m.Octets()})
		if v.Reply != nil {
			say(v.Reply)
			continue
		}
		if say(nil); v.Discard {
			continue
		}
		stored := v.Message
		if stored == nil {
			stored = m.Octets()
		}
		m.Keep(strings.ReplaceAll(string(stored), "\r\n", "\n"))
		m.Sender, m.Held = cmd.From.String(), v.Hold != ""
		if v.ReversePath != nil {
			m.Sender = v.ReversePath.String()
		}
		for _, a := range slices.Concat(rcpts, v.Add) {
			if !slices.Contains(v.Remove, a) {
				m.Recipients = append(m.Recipients, a.String())
			}
		}
		slices.Sort(m.Recipients)
	}
}

// reply is a reply as it is on the wire, in one line.
func reply(r *smtp.Reply) string {
	lines := strings.Split(r.Text, "\n")
	for i, line := range lines {
		one := *r
		one.Text = line
		if lines[i] = one.Error(); i < len(lines)-1 {
			lines[i] = strings.Replace(lines[i], " ", "-", 1)
		}
	}
	return strings.Join(lines, " / ")
}

func marshal(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "\t")
	e.Encode(v)
	return b.String()
}

// diff shows the lines that only one of two texts has.
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return "Postfix\n" + strings.Join(a, "\n") + "\nwe\n" + strings.Join(b, "\n")
}
