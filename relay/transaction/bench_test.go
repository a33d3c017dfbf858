package transaction_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/smtp"
)

// The benchmark's peers are other processes, so that what it counts is the
// relay's own CPU: this program again, with one of these set.
const (
	sinkEnv = "POSTERN_BENCH_SINK" // for the relay: the pair's address
	roleEnv = "POSTERN_BENCH_ROLE" // "sink", or "load ADDRESS MESSAGES SESSIONS reuse|new"
)

func init() {
	transaction.Role = func() bool {
		role := strings.Fields(os.Getenv(roleEnv))
		switch {
		case len(role) == 0:
			return false
		case role[0] == "sink":
			s, err := lmtptest.Start(nil)
			if err != nil {
				panic(err)
			}
			s.Discard = true
			fmt.Println(s.Addr)
			_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends
			return true
		}
		var n, sessions int
		fmt.Sscan(role[2], &n)
		fmt.Sscan(role[3], &sessions)
		if err := load(role[1], n, sessions, role[4] == "reuse"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return true
	}
}

// load sends n messages of 10 KB.
func load(addr string, n, sessions int, reuse bool) error {
	body := []byte("From: a\r\nTo: b\r\nSubject: benchmark\r\nMessage-ID: <1@x>\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n" +
		strings.Repeat(strings.Repeat("x", 78)+"\r\n", 128))
	tx := &smtp.Transaction{Mail: smtp.MailArgs{From: address("ann@b.example"), Size: -1}, Rcpts: to("bob@a.example"), Body: [][]byte{body}}
	var left atomic.Int64
	left.Store(int64(n))
	errs := make([]error, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			ctx := context.Background()
			var c *smtp.Client
			for left.Add(-1) >= 0 {
				if c == nil {
					if c, errs[i] = smtp.Dial(ctx, addr, smtp.ClientConfig{Hello: "client.example", Dial: dialReset}); errs[i] != nil {
						return
					}
				}
				res, err := c.Send(ctx, tx)
				if err == nil && !res.Final(0).OK() {
					err = res.Final(0)
				}
				if err != nil {
					errs[i] = err
					return
				}
				if !reuse {
					_ = c.Quit(ctx)
					c = nil
				}
			}
			if c != nil {
				_ = c.Quit(ctx)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// dialReset closes with a reset, so that a benchmark does not run out of ports.
func dialReset(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	return c, nil
}

func startRole(b *testing.B, role string) (*exec.Cmd, io.Reader) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close() })
	return cmd, out
}

// cpu is what this process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkInbound is the relay alone: messages of 10 KB from clients in
// another process, through to a pair in a third that answers at once. It
// reports the relay's CPU per message.
func BenchmarkInbound(b *testing.B) {
	sink, out := startRole(b, "sink")
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sink.Process.Kill(); _ = sink.Wait() })
	b.Setenv(sinkEnv, addr)
	for _, how := range []string{"new", "reuse"} {
		b.Run(how, func(b *testing.B) {
			r := startRelay(b, "a.example", &dns.Zone{}, nil)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu()
			client, _ := startRole(b, fmt.Sprintf("load %s %d 16 %s", r.addr, b.N, how))
			if err := client.Wait(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/msg")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
