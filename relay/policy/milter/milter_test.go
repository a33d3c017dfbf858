package milter

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/peertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a client that logged in over the clear.
func client() *policy.Client {
	return &policy.Client{
		Remote: netip.MustParseAddrPort("192.0.2.7:4711"), Local: netip.MustParseAddrPort("192.0.2.1:25"),
		Helo: "client.test", ESMTP: true, Service: "mx",
	}
}

func addr(s string) mail.Address {
	a, err := mail.ParseAddress(s, true)
	if err != nil {
		panic(err)
	}
	return a
}

// newFilter is a Filter whose log goes to the test's.
func newFilter(t testing.TB, cfg Config) *Filter {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "f"
	}
	if cfg.Address == "" {
		cfg.Address = "unix:/nowhere"
	}
	if cfg.Hostname == "" {
		cfg.Hostname = "mx.test"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// judge asks about one message from and to addresses of which the words may be told
// to the filter.
func judge(t testing.TB, f policy.Filter, msg string) policy.Verdict {
	t.Helper()
	v, refused := policy.Judge(t.Context(), f, client(),
		&policy.Mail{From: addr("ann@client.test"), Size: int64(len(msg)), Body: mail.Body8BitMIME, QueueID: "4F7A21"},
		[]mail.Address{addr("eva@example.com"), addr("bob@example.com")}, [][]byte{[]byte(msg)})
	for i, r := range refused {
		if r != nil {
			t.Errorf("recipient %d: %v", i, r)
		}
	}
	return v
}

// word is a verdict in short.
func word(v policy.Verdict) string {
	switch {
	case v.Reply != nil:
		return v.Reply.Error()
	case v.Discard:
		return "discard"
	case v.Hold != "":
		return "hold " + v.Hold
	case v.Changes != "":
		return v.Changes
	}
	return "pass"
}

// peer is the filter's end of a connection, by hand.
type peer struct {
	net.Conn
	t testing.TB
}

// dialer gives each session a pipe whose other end serve has.
func dialer(t testing.TB, serve func(p *peer)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			defer b.Close()
			serve(&peer{b, t})
		}()
		return a, nil
	}
}

// next reads a packet; code 0 is the end.
func (p *peer) next() (code byte, data []byte) {
	var head [4]byte
	if _, err := io.ReadFull(p, head[:]); err != nil {
		return 0, nil
	}
	data = make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(p, data); err != nil {
		return 0, nil
	}
	return data[0], data[1:]
}

// until reads packets up to one with a code. It reports whether that came.
func (p *peer) until(code byte) bool {
	for {
		switch c, _ := p.next(); c {
		case code:
			return true
		case 0:
			return false
		}
	}
}

// say sends a packet.
func (p *peer) say(code byte, data ...byte) {
	p.Write(packet(code, string(data)))
}

func packet(code byte, data string) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, uint32(len(data)+1)), code), data...)
}

// negotiate answers the negotiation with a protocol.
func (p *peer) negotiate(protocol uint32) {
	p.until(cmdNegotiate)
	p.Write(packet(cmdNegotiate, string(negotiation(protocol))))
}

func negotiation(protocol uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, version)
	b = binary.BigEndian.AppendUint32(b, allActions)
	return binary.BigEndian.AppendUint32(b, protocol)
}

// onlyEOM wants no event but the end of a message.
const onlyEOM = noConnect | noHelo | noMail | noRcpt | noData | noHeader | noEOH | noBody

// atEOM answers each end of a message with packets.
func atEOM(packets ...[]byte) func(p *peer) {
	return func(p *peer) {
		p.negotiate(onlyEOM)
		for p.until(cmdEOM) {
			p.Write(bytes.Join(packets, nil))
		}
	}
}

// python is a filter on libmilter, testdata/filter.py.
type python struct {
	addr string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// startPython runs one. It ends with the test.
func startPython(t testing.TB, options ...string) *python {
	t.Helper()
	dir := t.TempDir()
	p := &python{addr: "unix:" + filepath.Join(dir, "s"), log: filepath.Join(dir, "log"), done: make(chan struct{})}
	p.cmd = peertest.MilterFilter(t, "testdata/filter.py", append([]string{p.addr, p.log}, options...)...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	awaitPort(t, "unix", filepath.Join(dir, "s"))
	os.Remove(p.log) // what the port was tried for
	return p
}

func (p *python) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// awaitPort waits until somebody listens.
func awaitPort(t testing.TB, network, addr string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if c, err := net.Dial(network, addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("nobody listens on %s", addr)
}

// told is a line of a filter's log.
type told struct {
	Event  string            `json:"event"`
	Args   []any             `json:"args"`
	Macros map[string]string `json:"macros"`
}

// events waits until the log has the close of n sessions and returns it.
func events(t testing.TB, log string, n int) (all []told) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		data, _ := os.ReadFile(log)
		if bytes.Count(data, []byte(`"event": "close"`)) < n {
			continue
		}
		for line := range bytes.Lines(data) {
			var e told
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
		return all
	}
	t.Fatalf("no %d sessions in the filter's log", n)
	return nil
}

// do is a field that tells filter.py what to do.
func do(what ...any) string {
	b, _ := json.Marshal(what)
	return "X-Do: " + string(b) + "\r\n"
}

const plainHeader = "From: Ann <ann@client.test>\r\nTo: Eva <eva@example.com>\r\nSubject: one\r\n two\r\n"

// TestActions: every action of libmilter, in the message.
func TestActions(t *testing.T) {
	f := newFilter(t, Config{Address: startPython(t).addr})
	const body = "line one\r\n\r\n.\r\nlast\r\n"
	for name, tt := range map[string]struct {
		do   string // fields
		want string
		msg  func(do string) string // nil: unchanged
		env  func(v policy.Verdict) string
		wont string
	}{
		"nothing":                     {"", "pass", nil, nil, ""},
		"accept at header":            {do("header", "accept"), "pass", nil, nil, ""},
		"accept at eoh":               {do("eoh", "accept"), "pass", nil, nil, ""},
		"accept at body":              {do("body", "accept"), "pass", nil, nil, ""},
		"accept at eom":               {do("eom", "accept"), "pass", nil, nil, ""},
		"skip fields":                 {do("header", "skip") + do("eoh", "reject"), "pass", nil, nil, ""},
		"skip body":                   {do("body", "skip"), "pass", nil, nil, ""},
		"reject at header":            {do("header", "reject"), "550 5.7.1 Command rejected", nil, nil, ""},
		"reject at eoh":               {do("eoh", "reject"), "550 5.7.1 Command rejected", nil, nil, ""},
		"reject at body":              {do("body", "reject"), "550 5.7.1 Command rejected", nil, nil, ""},
		"reject at eom":               {do("eom", "reject"), "550 5.7.1 Command rejected", nil, nil, ""},
		"tempfail":                    {do("eom", "tempfail"), "451 4.7.1 Service unavailable - try again later", nil, nil, ""},
		"discard at header":           {do("header", "discard"), "discard", nil, nil, ""},
		"discard at eom":              {do("eom", "discard"), "discard", nil, nil, ""},
		"reply":                       {do("eom", "reply", "550", "5.7.9", "100%% spam"), "550 5.7.9 100% spam", nil, nil, ""},
		"reply for now":               {do("body", "reply", "452", "4.7.1", "later"), "452 4.7.1 later", nil, nil, ""},
		"reply without enhanced code": {do("eom", "reply", "554", "", "no"), "554 no", nil, nil, ""},
		"reply of several lines":      {do("eom", "reply", "554", "5.7.1", "one", "two", "three"), "554 5.7.1 one / two / three", nil, nil, ""},
		"quarantine":                  {do("eom", "quarantine", "look\tat it"), "hold look?at it", nil, nil, ""},
		"progress": {do("eom", "progress") + do("eom", "progress") + do("eom", "addheader", "X-A", "1"), "X-A added", func(d string) string {
			return plainHeader + d + "X-A: 1\r\n\r\n" + body
		}, nil, ""},
		"add": {do("eom", "addheader", "X-Spam", "yes, 5.2\n\tTEST=1"), "X-Spam added", func(d string) string {
			return plainHeader + d + "X-Spam: yes, 5.2\r\n\tTEST=1\r\n\r\n" + body
		}, nil, ""},
		"insert": {do("eom", "addheader", "X-A", "a", 0) + do("eom", "addheader", "X-B", "b", 1) + do("eom", "addheader", "X-C", "c", 4) + do("eom", "addheader", "X-D", "d", 0), "X-A added, X-B added, X-C added, X-D added", func(d string) string {
			return "X-D: d\r\nX-A: a\r\nX-B: b\r\n" + "From: Ann <ann@client.test>\r\nX-C: c\r\n" + strings.TrimPrefix(plainHeader, "From: Ann <ann@client.test>\r\n") + d + "\r\n" + body
		}, nil, ""},
		"change": {do("eom", "chgheader", "subject", 1, "three"), "subject changed", func(d string) string {
			return strings.Replace(plainHeader, "Subject: one\r\n two\r\n", "subject: three\r\n", 1) + d + "\r\n" + body
		}, nil, ""},
		"remove": {do("eom", "chgheader", "Subject", 1, ""), "Subject removed", func(d string) string {
			return strings.Replace(plainHeader, "Subject: one\r\n two\r\n", "", 1) + d + "\r\n" + body
		}, nil, ""},
		"body": {do("eom", "replacebody", "new\r", "\nbo\ndy"), "body replaced", func(d string) string {
			return plainHeader + d + "\r\nnew\r\nbo\r\ndy\r\n"
		}, nil, ""},
		"envelope": {
			do("eom", "addrcpt", "<ed@example.com>") + do("eom", "addrcpt", "fay@example.com", "NOTIFY=NEVER") +
				do("eom", "delrcpt", "<BOB@example.com>") + do("eom", "chgfrom", "<bounce@client.test>"),
			"sender changed, 2 recipients added, 1 recipient removed", nil,
			func(v policy.Verdict) string { return fmt.Sprint(v.ReversePath, v.Add, v.Remove) },
			"bounce@client.test [ed@example.com fay@example.com] [bob@example.com]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(t, f, plainHeader+tt.do+"\r\n"+body)
			if got := word(v); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			want := ""
			if tt.msg != nil {
				want = tt.msg(tt.do)
			}
			if string(v.Message) != want {
				t.Errorf("message\n%q, want\n%q", v.Message, want)
			}
			if tt.env != nil && tt.env(v) != tt.wont {
				t.Errorf("envelope %s, want %s", tt.env(v), tt.wont)
			}
		})
	}
}
