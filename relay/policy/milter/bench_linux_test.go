package milter

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
)

// peerEnv makes the test's program a filter: its socket, and its protocol.
const peerEnv = "POSTERN_TEST_MILTER"

func init() {
	where, protocol, ok := strings.Cut(os.Getenv(peerEnv), " ")
	if !ok {
		return
	}
	bits, _ := strconv.ParseUint(protocol, 10, 32)
	ln, err := net.Listen("unix", where)
	if err != nil {
		panic(err)
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer c.Close()
			p := &peer{Conn: c}
			p.negotiate(uint32(bits))
			for {
				switch code, _ := p.next(); code {
				case 0, cmdQuit:
					return
				case cmdMacros, cmdAbort:
				default:
					p.say(respContinue)
				}
			}
		}()
	}
}

// cpuTime is what this process has used of its processors, the filter apart.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMessage is a session with one message of 25 fields, by what the filter
// wants to be told.
func BenchmarkMessage(b *testing.B) {
	for _, wants := range []struct {
		name     string
		protocol uint32
	}{{"end", onlyEOM}, {"all", 0}} {
		for _, size := range []int{10 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKB", wants.name, size>>10), func(b *testing.B) {
				socket := filepath.Join(b.TempDir(), "s")
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), peerEnv+"="+socket+" "+strconv.FormatUint(uint64(wants.protocol), 10))
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				defer func() { cmd.Process.Kill(); cmd.Wait() }()
				awaitPort(b, "unix", socket)
				f := newFilter(b, Config{Address: "unix:" + socket})
				var head strings.Builder
				for i := range 25 {
					fmt.Fprintf(&head, "X-Field-%d: %s\r\n\t%s\r\n", i, strings.Repeat("a", 60), strings.Repeat("b", 30))
				}
				msg := []byte(head.String() + "\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72))
				m, to := &policy.Mail{From: addr("ann@client.test"), QueueID: "4F7A21"}, []mail.Address{addr("eva@example.com")}
				b.ReportAllocs()
				began := cpuTime()
				for b.Loop() {
					v, _ := policy.Judge(b.Context(), f, client(), m, to, [][]byte{msg})
					if word(v) != "pass" {
						b.Fatal(word(v))
					}
				}
				b.ReportMetric(float64((cpuTime()-began).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}
