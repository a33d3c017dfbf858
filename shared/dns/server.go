package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/miekg/dns"
)

// Server answers from a Zone by UDP and TCP. It is for loopback: development
// clusters and tests.
type Server struct {
	zone     *Zone
	udp, tcp *dns.Server
	addr     string
}

// Listen starts listening on addr, host:port, where port 0 lets the system
// choose one for both protocols.
func Listen(addr string, zone *Zone) (*Server, error) {
	for try := 0; ; try++ {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			s := &Server{zone: zone, addr: l.Addr().String()}
			h := dns.HandlerFunc(s.serve)
			s.udp = &dns.Server{PacketConn: p, Handler: h}
			s.tcp = &dns.Server{Listener: l, Handler: h}
			return s, nil
		}
		l.Close()
		if try == 9 {
			return nil, fmt.Errorf("dns: %w", err)
		}
	}
}

// Addr is the address that the server listens on.
func (s *Server) Addr() string { return s.addr }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	servers := []*dns.Server{s.udp, s.tcp}
	for i, srv := range servers {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		failed := make(chan struct{})
		wg.Go(func() {
			errs[i] = srv.ActivateAndServe()
			close(failed)
		})
		select {
		case <-started:
		case <-failed:
		}
	}
	<-ctx.Done()
	for _, srv := range servers {
		_ = srv.Shutdown()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// serve answers one question.
func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	var m dns.Msg
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if len(q.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(&m)
		return
	}
	rrs, exists, err := s.zone.find(q.Question[0].Name, q.Question[0].Qtype)
	switch {
	case err != nil:
		m.Rcode = dns.RcodeServerFailure
	case !exists:
		m.Rcode = dns.RcodeNameError
	}
	m.Answer = rrs
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
			m.SetEdns0(o.UDPSize(), false)
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(&m)
}
