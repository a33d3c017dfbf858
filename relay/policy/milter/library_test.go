package milter

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	library "github.com/d--j/go-milter"
)

// whole is a filter on another implementation of the protocol that looks at all of
// a message and changes it at the end.
type whole struct {
	library.NoOpMilter
	seen strings.Builder
}

func (w *whole) Connect(host, family string, port uint16, addr string, m library.Modifier) (*library.Response, error) {
	fmt.Fprintln(&w.seen, "connect", host, family, port, addr, m.Get("{daemon_name}"), m.Get("v"))
	return library.RespContinue, nil
}

func (w *whole) Helo(name string, _ library.Modifier) (*library.Response, error) {
	fmt.Fprintln(&w.seen, "helo", name)
	return library.RespContinue, nil
}

func (w *whole) MailFrom(from, args string, m library.Modifier) (*library.Response, error) {
	fmt.Fprintln(&w.seen, "mail", from, args, m.Get("i"))
	return library.RespContinue, nil
}

func (w *whole) RcptTo(to, _ string, m library.Modifier) (*library.Response, error) {
	fmt.Fprintln(&w.seen, "rcpt", to, m.Get("{rcpt_host}"))
	return library.RespContinue, nil
}

func (w *whole) Header(name, value string, _ library.Modifier) (*library.Response, error) {
	fmt.Fprintf(&w.seen, "%s=%q\n", name, value)
	return library.RespContinue, nil
}

func (w *whole) BodyChunk(part []byte, _ library.Modifier) (*library.Response, error) {
	fmt.Fprintf(&w.seen, "body %d\n", len(part))
	return library.RespContinue, nil
}

func (w *whole) EndOfMessage(m library.Modifier) (*library.Response, error) {
	m.Progress()
	m.InsertHeader(0, "X-Seen", "")
	m.ChangeHeader(1, "Subject", "other\n one")
	m.AddHeader("X-Last", "1")
	m.ReplaceBody(strings.NewReader(w.seen.String()))
	m.ChangeFrom("new@client.test", "")
	m.AddRecipient("<more@example.com>", "NOTIFY=NEVER")
	m.DeleteRecipient("<bob@example.com>")
	m.Quarantine("look")
	return library.RespAccept, nil
}

// TestLibrary asks a filter that is not on libmilter.
func TestLibrary(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := library.NewServer(
		library.WithMilter(func() library.Milter { return &whole{} }),
		library.WithActions(library.AllClientSupportedActionMasks),
	)
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(ln) }()
	defer func() { server.Close(); <-done }()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	v := judge(t, newFilter(t, Config{Address: "inet:" + port + "@127.0.0.1"}), plainHeader+"\r\n"+strings.Repeat(strings.Repeat("x", 98)+"\r\n", 1000))
	if v.Hold != "look" || v.Changes != "X-Seen added, Subject changed, X-Last added, body replaced, sender changed, 1 recipient added, 1 recipient removed" {
		t.Errorf("%q %s", v.Hold, v.Changes)
	}
	if got := fmt.Sprint(v.ReversePath, v.Add, v.Remove); got != "new@client.test [more@example.com] [bob@example.com]" {
		t.Error(got)
	}
	const want = "X-Seen: \r\nFrom: Ann <ann@client.test>\r\nTo: Eva <eva@example.com>\r\nSubject: other\r\n one\r\nX-Last: 1\r\n\r\n" +
		"connect [192.0.2.7] tcp4 4711 192.0.2.7 mx Postern\r\nhelo client.test\r\nmail ann@client.test SIZE=100078 BODY=8BITMIME 4F7A21\r\n" +
		"rcpt eva@example.com example.com\r\nrcpt bob@example.com example.com\r\n" +
		"From=\"Ann <ann@client.test>\"\r\nTo=\"Eva <eva@example.com>\"\r\nSubject=\"one\\n two\"\r\nbody 65535\r\nbody 34465\r\n"
	if !bytes.Equal(v.Message, []byte(want)) {
		t.Errorf("message\n%s, want\n%s", v.Message, want)
	}
}
