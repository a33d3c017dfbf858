package chaos

import (
	"bytes"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// popClient is a session by POP3.
type popClient struct{ *textproto.Conn }

func dialPOP3(addr string, u cluster.User) (*popClient, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &popClient{textproto.NewConn(conn)}
	if _, err := c.ReadLine(); err != nil {
		return nil, err
	}
	for _, cmd := range []string{"USER " + u.Login, "PASS " + u.Password} {
		if _, err := c.do(cmd); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (c *popClient) do(cmd string) (string, error) {
	if err := c.PrintfLine("%s", cmd); err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	line, err := c.ReadLine()
	if err == nil && !strings.HasPrefix(line, "+OK") {
		err = fmt.Errorf("answer %q", line)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return line, nil
}

func (c *popClient) lines(cmd string) ([]byte, error) {
	if _, err := c.do(cmd); err != nil {
		return nil, err
	}
	return c.ReadDotBytes()
}

// TestHandOverPOP3 has sessions by POP3 go on through planned hand-overs: each
// command is answered, messages keep their numbers and their octets, and what was
// marked is gone after QUIT and not before.
func TestHandOverPOP3(t *testing.T) {
	const messages, sessions, handOvers = 5, 8, 6
	c, led, end := underLoad(t, cluster.Load{Senders: 4, Size: 20000}, "--users", fmt.Sprint(sessions), "--pairs", "1")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if ok, _, _ := led.Counts(); ok > 4*messages*sessions {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no mail")
		}
	}
	end()
	relays := c.Info().Relays
	stop := make(chan struct{})
	begun := make(chan struct{}, sessions)
	var wg sync.WaitGroup
	for i, u := range c.Info().Users {
		wg.Go(func() {
			n, err := work(relays[i%len(relays)].POP3, u, begun, stop)
			if err != nil {
				t.Errorf("%s after %d commands: %v", u.Login, n, err)
			}
			t.Logf("%s: %d commands", u.Login, n)
		})
	}
	for range sessions {
		<-begun
	}
	for range handOvers {
		awaitReplicas(t, c, "pair1")
		before := c.Serving("pair1")
		if out, err := c.Postern("pair", "transfer", "pair1"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if now := c.AwaitServing("pair1", 10*time.Second); now == before {
			t.Errorf("%s serves before and after", now)
		}
	}
	close(stop)
	wg.Wait()
}

// work is a session that lasts until stop, and one after it. It tells when it has
// begun, and returns the number of its commands.
func work(addr string, u cluster.User, begun chan<- struct{}, stop <-chan struct{}) (n int, err error) {
	tell := sync.OnceFunc(func() { begun <- struct{}{} })
	defer tell()
	c, err := dialPOP3(addr, u)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	list, err := c.lines("UIDL")
	if err != nil {
		return 0, err
	}
	first, err := c.lines("RETR 1")
	if err != nil {
		return 1, err
	}
	if _, err := c.do("DELE 2"); err != nil {
		return 2, err
	}
	for n = 3; ; n += 3 {
		if now, err := c.lines("UIDL"); err != nil || bytes.Count(now, []byte("\n")) != bytes.Count(list, []byte("\n"))-1 {
			return n, fmt.Errorf("maildrop is\n%s, was\n%s: %v", now, list, err)
		}
		if now, err := c.lines("RETR 1"); err != nil || !bytes.Equal(now, first) {
			return n + 1, fmt.Errorf("message 1 has %d octets, had %d: %v", len(now), len(first), err)
		}
		if _, err := c.do("STAT"); err != nil {
			return n + 2, err
		}
		tell()
		select {
		case <-stop:
		default:
			continue
		}
		break
	}
	if _, err := c.do("QUIT"); err != nil {
		return n, err
	}
	if c, err = dialPOP3(addr, u); err != nil {
		return n, err
	}
	defer c.Close()
	now, err := c.lines("UIDL")
	uid := func(list []byte, i int) string { return strings.Fields(string(list))[2*i-1] }
	if err != nil || uid(now, 1) != uid(list, 1) || uid(now, 2) != uid(list, 3) {
		return n, fmt.Errorf("after QUIT\n%s, before\n%s: %v", now, list, err)
	}
	return n, nil
}
