package smtp

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

const benchConns = 16

// nullSession takes everything and keeps nothing.
type nullSession struct{ ok []*Reply }

func (nullSession) Hello(context.Context, *ConnInfo) error { return nil }
func (nullSession) Auth(context.Context, string, string, string, string) (string, error) {
	return "u", nil
}
func (nullSession) Mail(context.Context, *MailArgs) error { return nil }
func (nullSession) Rcpt(context.Context, *RcptArgs) error { return nil }
func (s nullSession) Data(context.Context, *Message) []*Reply {
	return s.ok
}
func (nullSession) Reset() {}
func (nullSession) Close() {}

func nullConfig() ServerConfig {
	ok := []*Reply{{Code: 250, Status: mail.StatusOK, Text: "OK"}}
	return ServerConfig{
		Hostname: "mx.example.com",
		Limits:   Limits{Transactions: 1 << 30},
		NewSession: func(context.Context, *ConnInfo) (Session, error) {
			return nullSession{ok}, nil
		},
	}
}

// benchBody is a message of 10 KB as mail has it: lines of 76 octets.
func benchBody() []byte {
	var b bytes.Buffer
	b.WriteString("From: ann@example.net\r\nTo: bob@example.com\r\nSubject: benchmark\r\n\r\n")
	line := strings.Repeat("abcdefghijklmnopqrs", 4) + "\r\n"
	for b.Len() < 10<<10 {
		b.WriteString(line)
	}
	return b.Bytes()
}

// load sends b.N messages over benchConns connections of our own client.
func load(b *testing.B, addr string, bdat bool) {
	body := [][]byte{benchBody()}
	b.SetBytes(int64(len(body[0])))
	var clients []*Client
	for range benchConns {
		clients = append(clients, dialTest(b, addr, ClientConfig{}))
	}
	b.ReportAllocs()
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			t := &Transaction{
				Mail: MailArgs{From: mail.Address{Local: "ann", Domain: "example.net"}}, Rcpts: []RcptArgs{{To: mail.Address{Local: "bob", Domain: "example.com"}}},
				Body: body, UseBDAT: bdat,
			}
			for left.Add(-1) >= 0 {
				res, err := c.Send(context.Background(), t)
				if err != nil || len(res.Data) != 1 || !res.Data[0].OK() {
					b.Errorf("%+v %v", res, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkEngine is the engine with a back end that does nothing.
func BenchmarkEngine(b *testing.B) {
	addr, _ := listen(b, nullConfig())
	load(b, addr, false)
}

// BenchmarkEngineBDAT is BenchmarkEngine with the message in the same flight
// as its commands.
func BenchmarkEngineBDAT(b *testing.B) {
	addr, _ := listen(b, nullConfig())
	load(b, addr, true)
}

// BenchmarkPlainLoop is the plainest server that the same client can talk to:
// it reads lines, answers without looking and throws the message away. It is
// what the engine is measured by.
func BenchmarkPlainLoop(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { plainLoop(c) })
		}
	})
	b.Cleanup(func() { l.Close(); wg.Wait() })
	load(b, l.Addr().String(), false)
}

func plainLoop(c net.Conn) {
	defer c.Close()
	r, w := bufio.NewReaderSize(c, 16<<10), bufio.NewWriter(c)
	w.WriteString("220 plain ESMTP\r\n")
	for inData := false; ; {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
			return
		case inData && string(line) != ".\r\n":
			continue
		case inData:
			inData = false
			w.WriteString("250 2.0.0 OK\r\n")
		case line[0] == 'E':
			w.WriteString("250-plain\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n")
		case line[0] == 'D':
			inData = true
			w.WriteString("354 go\r\n")
		default:
			w.WriteString("250 2.1.0 OK\r\n")
		}
	}
}
