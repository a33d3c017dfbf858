package smtp

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the S: lines of testdata/*.dialog")

// A .dialog file is the transcript of one connection.
//
//	# a comment
//	option NAME     a change of the configuration, see dialogOptions
//	C: text         sent with CRLF; lines that follow each other go in one write
//	C! text         sent as it is, with Go escapes as C: has them too
//	S: text         expected line; a final * stands for anything
//	S: <closed>     the server closes the connection
//	TLS             the client starts TLS
//	END             the client closes its side
//	= text          expected line of what the back end saw
func TestDialogs(t *testing.T) {
	files, err := filepath.Glob("testdata/*.dialog")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogs: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".dialog"), func(t *testing.T) {
			t.Parallel()
			runDialog(t, f)
		})
	}
}

var dialogOptions = map[string]func(*testing.T, *ServerConfig){
	"lmtp":     func(t *testing.T, c *ServerConfig) { c.Protocol = LMTP },
	"small":    func(t *testing.T, c *ServerConfig) { c.Limits = smallLimits },
	"tls":      func(t *testing.T, c *ServerConfig) { c.TLS = testTLS(t) },
	"need-tls": func(t *testing.T, c *ServerConfig) { c.TLS, c.RequireTLS = testTLS(t), true },
	"auth":     func(t *testing.T, c *ServerConfig) { c.Mechanisms = []string{"PLAIN", "LOGIN", "EXTERNAL"} },
	"clear":    func(t *testing.T, c *ServerConfig) { c.PlainWithoutTLS = everybody },
	"normalize": func(t *testing.T, c *ServerConfig) {
		c.LineEnds = func(netip.AddrPort) LineEnds { return NormalizeBare }
	},
	"proxy":   func(t *testing.T, c *ServerConfig) { c.TrustProxy = everybody },
	"xclient": func(t *testing.T, c *ServerConfig) { c.TrustXCLIENT = everybody },
	"private": func(t *testing.T, c *ServerConfig) {
		c.Private, c.PrivateMail, c.PrivateRcpt = "X-TT 1", []string{"XTRACE"}, []string{"XKEY", "XFOLDER"}
		c.PrivateFor = func(c *ConnInfo) bool { return c.Helo != "stranger.example" }
	},
	"private-nobody": func(t *testing.T, c *ServerConfig) {
		c.Private, c.PrivateRcpt = "X-TT 1", []string{"XKEY"}
	},
	"full": func(t *testing.T, c *ServerConfig) {
		c.Admit = func(n int64) (func(), error) {
			if n > 30000 {
				return nil, &Reply{Code: 452, Status: [3]int{4, 3, 1}, Text: "Insufficient storage"}
			}
			return func() {}, nil
		}
	},
	"busy": func(t *testing.T, c *ServerConfig) {
		c.NewSession = func(context.Context, *ConnInfo) (Session, error) {
			return nil, &Reply{Code: 554, Status: [3]int{5, 7, 1}, Text: "Go away"}
		}
	},
	"broken": func(t *testing.T, c *ServerConfig) {
		c.NewSession = func(context.Context, *ConnInfo) (Session, error) { return nil, io.ErrUnexpectedEOF }
	},
}

var smallLimits = Limits{
	Line: 512, Header: 200, Recipients: 2, Size: 1000, Errors: 3, Transactions: 3, HeaderLine: 100,
}

func everybody(netip.AddrPort) bool { return true }

func runDialog(t *testing.T, file string) {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{}
	cfg := testConfig(s)
	lines := strings.Split(strings.TrimSuffix(string(src), "\n"), "\n")
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l, "option "); ok {
			o, ok := dialogOptions[name]
			if !ok {
				t.Fatalf("unknown option %q", name)
			}
			o(t, &cfg)
		}
	}
	addr, _ := listen(t, cfg)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	d := &dialog{t: t, file: file, sink: s, nc: nc, r: bufio.NewReader(nc)}
	for i, l := range lines {
		d.line(i+1, l)
	}
	d.finish()
	if *update && !t.Failed() {
		if err := os.WriteFile(file, []byte(strings.Join(d.out, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type dialog struct {
	t    *testing.T
	file string
	sink *sink
	nc   net.Conn
	r    *bufio.Reader
	send bytes.Buffer
	out  []string
	seen int // calls of the back end that were compared
}

func (d *dialog) line(n int, l string) {
	kind, text, _ := strings.Cut(l, " ")
	switch kind {
	case "C:", "C!":
		d.out = append(d.out, l)
		d.send.WriteString(unescape(d.t, text))
		if kind == "C:" {
			d.send.WriteString("\r\n")
		}
	case "S:":
		d.flush()
		got := d.read()
		if !matches(text, got) {
			if !*update {
				d.t.Fatalf("%s:%d: got %q, want %q", d.file, n, got, text)
			}
			text = got
		}
		d.out = append(d.out, "S: "+text)
	case "=":
		d.flush()
		got := "nothing"
		if calls := d.sink.seen(); d.seen < len(calls) {
			got = calls[d.seen]
		}
		d.seen++
		if got != text {
			if !*update {
				d.t.Fatalf("%s:%d: back end saw %q, want %q", d.file, n, got, text)
			}
			text = got
		}
		d.out = append(d.out, "= "+text)
	case "TLS":
		d.flush()
		t := tls.Client(d.nc, &tls.Config{InsecureSkipVerify: true})
		if err := t.Handshake(); err != nil {
			d.t.Fatalf("%s:%d: %v", d.file, n, err)
		}
		d.nc, d.r = t, bufio.NewReader(t)
		d.out = append(d.out, l)
	case "END":
		d.flush()
		d.nc.(interface{ CloseWrite() error }).CloseWrite()
		d.out = append(d.out, l)
	case "", "#", "option":
		d.out = append(d.out, l)
	default:
		d.t.Fatalf("%s:%d: bad line %q", d.file, n, l)
	}
}

func (d *dialog) flush() {
	if d.send.Len() > 0 {
		if _, err := d.nc.Write(d.send.Bytes()); err != nil {
			d.t.Fatalf("%s: %v", d.file, err)
		}
		d.send.Reset()
	}
}

func (d *dialog) read() string {
	d.nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	l, err := d.r.ReadString('\n')
	if err != nil {
		if l == "" && err == io.EOF {
			return "<closed>"
		}
		return fmt.Sprintf("<%q %v>", l, err)
	}
	return strings.TrimSuffix(l, "\r\n")
}

// finish checks that nothing more was said than the transcript has.
func (d *dialog) finish() {
	d.flush()
	if c, ok := d.nc.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
	for {
		got := d.read()
		if got == "<closed>" {
			return
		}
		if !*update {
			d.t.Fatalf("%s: %q at the end", d.file, got)
		}
		if strings.HasPrefix(got, "<") {
			return
		}
		d.out = append(d.out, "S: "+got)
	}
}

func unescape(t *testing.T, s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	u, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\x22`) + `"`)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return u
}

func matches(pattern, s string) bool {
	if p, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(s, p)
	}
	return pattern == s
}
