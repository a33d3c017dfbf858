package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// State is what the network answers.
type State string

// The states.
const (
	Open     State = "open"     // somebody listens and we reach them
	Reset    State = "reset"    // we reach the host, nobody listens
	Filtered State = "filtered" // refused on the way, or no answer
	Silent   State = "silent"   // UDP: no answer, which may be either
	Talks    State = "talks"    // open, and talks to a peer that shows no certificate
	Unclear  State = "unclear"  // the probe itself has failed
)

// Options say how probes are run.
type Options struct {
	Timeout  time.Duration // of one answer
	Parallel int           // at once
}

// Run tries every probe and fills in its state. Probes that could not be made are
// unclear, and the first reason is returned beside.
func Run(ctx context.Context, probes []Probe, o Options) error {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards failed
	var failed error
	slots := make(chan struct{}, max(1, o.Parallel))
	for i := range probes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p := &probes[i]
			var err error
			if p.State, err = p.try(ctx, o.Timeout); err != nil {
				mu.Lock()
				if failed == nil {
					failed = fmt.Errorf("%s port %d of %s: %w", p.Protocol, p.Port, p.Address, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(failed, ctx.Err())
}

func (p *Probe) try(ctx context.Context, within time.Duration) (State, error) {
	addr := netip.AddrPortFrom(p.Address, uint16(p.Port)).String()
	if p.Protocol == "udp" {
		return udp(ctx, addr, p.Port, within)
	}
	state, err := dial(ctx, addr, p.role, within)
	if state == Filtered && p.Rule != "" && err == nil {
		return dial(ctx, addr, p.role, within) // one lost packet is no finding
	}
	return state, err
}

func dial(ctx context.Context, addr, role string, within time.Duration) (State, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return classify(err)
	}
	defer c.Close()
	if role != "" && talks(c, within) {
		return Talks, nil
	}
	return Open, nil
}

// classify tells a refusal by the network from a probe that could not be made.
func classify(err error) (State, error) {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Reset, nil
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ECONNRESET):
		return Filtered, nil
	case errors.Is(err, context.Canceled):
		return Unclear, err
	case errors.As(err, &timeout) && timeout.Timeout():
		return Filtered, nil
	}
	return Unclear, err
}

// talks reports whether a listener that asks for certificates goes on without one:
// it sends something, keeps the connection, or knows no TLS.
func talks(c net.Conn, within time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(within))
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) // nothing is sent to it that matters
	if err := t.Handshake(); err != nil {
		var plain tls.RecordHeaderError
		return errors.As(err, &plain) || errors.Is(err, os.ErrDeadlineExceeded)
	}
	// With TLS 1.3 the refusal comes after our side of the handshake is done.
	if _, err := t.Write([]byte("\r\n")); err != nil {
		return false
	}
	n, err := t.Read(make([]byte, 1))
	return n > 0 || errors.Is(err, os.ErrDeadlineExceeded)
}

// udp sends a few times, since answers of firewalls are rationed.
func udp(ctx context.Context, addr string, port int, within time.Duration) (State, error) {
	c, err := new(net.Dialer).DialContext(ctx, "udp", addr)
	if err != nil {
		return classify(err)
	}
	defer c.Close()
	const tries = 3
	buf := make([]byte, 512)
	for range tries {
		_ = c.SetDeadline(time.Now().Add(within / tries))
		if _, err = c.Write(question(port)); err == nil {
			if _, err = c.Read(buf); err == nil {
				return Open, nil
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return classify(err)
		}
		if ctx.Err() != nil {
			return Unclear, ctx.Err()
		}
	}
	return Silent, nil
}

// question is what a port may answer to: on 53 the question for the name servers of
// the root, on 123 that for the time.
func question(port int) []byte {
	switch port {
	case 53:
		return []byte("pt\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + "\x00\x00\x02\x00\x01")
	case 123:
		return append([]byte{4<<3 | 3}, make([]byte, 47)...) // version 4, client
	}
	return []byte("postern probe")
}
