package raftnet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// end is one member on a port of its own.
type end struct {
	port *Port
	t    *Transport
	addr string
}

func newEnd(t *testing.T, id string, cert tls.Certificate, pool *x509.CertPool, edit func(*Config)) *end {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	any := func(tls.ConnectionState) error { return nil }
	port, err := NewPort(l, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, any, log)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Pair: "p", ID: id, Addr: l.Addr().String(), Port: port, TLS: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}, Authorize: any,
		Member: func(id string) bool { return id != "stranger" }, Resolve: func(string) string { return "" },
		Handler: silent{}, Log: log,
	}
	if edit != nil {
		edit(&cfg)
	}
	tr, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := &end{port, tr, l.Addr().String()}
	t.Cleanup(func() { tr.Close(); port.Close() })
	return e
}

type silent struct{}

func (silent) Status() Status                        { return Status{ID: "b", Applied: 7} }
func (silent) SeesDead(context.Context, string) bool { return false }
func (silent) Servers() (uint64, []Server) {
	return 5, []Server{{ID: "a", Addr: "x:1|a", Voter: true}, {ID: "b", Addr: "x:2|b"}}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestStream talks over streams, is refused, and opens too many.
func TestStream(t *testing.T) {
	cert, pool := selfSigned(t)
	b := newEnd(t, "b", cert, pool, func(c *Config) {
		c.Passive = true
		c.Stream = func(ctx context.Context, from string, s *Stream) error {
			for {
				m, err := s.Receive(0)
				if err != nil {
					return err
				}
				if string(m) == "no" {
					return s.Refuse(errors.New("as you say"))
				}
				if err := s.Send([]byte(from+": "), m); err != nil {
					return err
				}
			}
		}
	})
	a := newEnd(t, "a", cert, pool, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	open := func() *Stream {
		t.Helper()
		s, err := a.t.Stream(ctx, "b", b.addr+"|node b")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open()
	defer first.Close()
	for _, text := range []string{"x", strings.Repeat("long ", 1<<20), ""} {
		if err := first.Send(nil, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if m, err := first.Receive(10 * time.Second); err != nil || string(m) != "a: "+text {
			t.Fatalf("%d octets came back, %v", len(m), err)
		}
	}
	second := open()
	_ = second.Send(nil, []byte("no"))
	if _, err := second.Receive(10 * time.Second); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "as you say") {
		t.Errorf("refusal reads %v", err)
	}
	second.Close()
	var more []*Stream
	refused := 0
	for range maxStreams + 1 {
		s := open()
		more = append(more, s)
		_ = s.Send(nil, []byte("x"))
		if _, err := s.Receive(10 * time.Second); errors.Is(err, ErrRefused) {
			refused++
		}
	}
	if refused == 0 {
		t.Errorf("%d streams at a time", maxStreams+2)
	}
	for _, s := range more {
		s.Close()
	}
	// The other end gives none.
	s, err := b.t.Stream(ctx, "a", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(10 * time.Second); !errors.Is(err, ErrRefused) {
		t.Errorf("a stream that nobody answers: %v", err)
	}
	s.Close()
	// One that takes no part in raft answers questions all the same.
	if st, err := a.t.Status(ctx, "b", b.addr); err != nil || st.Applied != 7 {
		t.Errorf("%+v, %v", st, err)
	}
	index, list, err := a.t.Servers(ctx, "b", b.addr)
	if _, want := (silent{}).Servers(); err != nil || index != 5 || !reflect.DeepEqual(list, want) {
		t.Errorf("%d, %v, %v", index, list, err)
	}
	stranger := newEnd(t, "stranger", cert, pool, nil)
	if s, err := stranger.t.Stream(ctx, "b", b.addr); err == nil {
		if _, err := s.Receive(10 * time.Second); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no member") {
			t.Errorf("a stranger reads %v", err)
		}
		s.Close()
	}
}

func FuzzServers(f *testing.F) {
	var w writer
	w.servers(5, []Server{{"a", "x:1|a|w", true}, {"b", "x:2", false}})
	f.Add(w.b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		index, list, err := decodeServers(b)
		if err != nil {
			return
		}
		if len(list) > maxServers {
			t.Errorf("%d servers", len(list))
		}
		var w writer
		w.servers(index, list)
		i2, l2, err := decodeServers(w.b)
		if err != nil || i2 != index || fmt.Sprint(l2) != fmt.Sprint(list) {
			t.Errorf("%v became %v, %v", list, l2, err)
		}
	})
}
