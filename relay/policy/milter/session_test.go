package milter

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

const note = "From: <ann@client.test>\r\nSubject: x\r\n\r\nbody\r\n"

// code is the code of the reply, 0 for none.
func code(err error) int {
	if err == nil {
		return 0
	}
	return smtp.ReplyFor(err).Code
}

// TestFailures: whatever a filter does wrong, OnFailure is done, in the time that
// the limits say, and what it changed before is forgotten.
func TestFailures(t *testing.T) {
	add := packet(respAddHeader, "X\x00y\x00")
	serve := map[string]struct {
		f      func(p *peer)
		within time.Duration
	}{
		"silent":            {func(p *peer) { io.Copy(io.Discard, p) }, 30 * time.Second},
		"ends at once":      {func(p *peer) {}, 0},
		"other negotiation": {func(p *peer) { p.until(cmdNegotiate); p.say(respContinue) }, 0},
		"short negotiation": {func(p *peer) { p.until(cmdNegotiate); p.say(cmdNegotiate, 0, 0, 0, 6) }, 0},
		"version 7":         {func(p *peer) { p.until(cmdNegotiate); p.say(cmdNegotiate, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0) }, 0},
		"version 1":         {func(p *peer) { p.until(cmdNegotiate); p.say(cmdNegotiate, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0) }, 0},
		"unknown actions":   {func(p *peer) { p.until(cmdNegotiate); p.say(cmdNegotiate, 0, 0, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0) }, 0},
		"endless macros": {func(p *peer) {
			p.until(cmdNegotiate)
			p.Write(packet(cmdNegotiate, string(negotiation(0))+"\x00\x00\x00\x00i"))
		}, 0},
		"reads nothing":        {func(p *peer) { p.negotiate(onlyEOM &^ noBody); time.Sleep(time.Hour) }, 30 * time.Second},
		"silent after connect": {func(p *peer) { p.negotiate(0); io.Copy(io.Discard, p) }, 30 * time.Second},
		"no answer to the end": {func(p *peer) { p.negotiate(onlyEOM); p.until(cmdEOM); p.Write(add); io.Copy(io.Discard, p) }, 300 * time.Second},
		"ends at the end":      {func(p *peer) { p.negotiate(onlyEOM); p.until(cmdEOM); p.Write(add) }, 0},
		"half a packet":        {func(p *peer) { p.negotiate(onlyEOM); p.until(cmdEOM); p.Write(add); p.Write(add[:6]) }, 0},
		"unknown answer":       {atEOM(add, packet('z', "")), 0},
		"skip at the end":      {atEOM(add, packet(respSkip, "")), 0},
		"data after accept":    {atEOM(add, packet(respAccept, "x")), 0},
		"connection failure":   {atEOM(add, packet(respConnFail, "")), 0},
		"reply of no class":    {atEOM(add, packet(respReply, "250 fine\x00")), 0},
		"no code":              {atEOM(add, []byte{0, 0, 0, 0}), 0},
		"4 GB announced":       {atEOM(add, []byte{0xff, 0xff, 0xff, 0xff, 'b'}), 0},
		"a field without end":  {atEOM(add, packet(respAddHeader, "X\x00y"), packet(respAccept, "")), 0},
		"index without field":  {atEOM(add, packet(respChgHeader, "\x00\x00"), packet(respAccept, "")), 0},
		"more than a field":    {atEOM(add, packet(respAddHeader, "X\x00y\x00z\x00"), packet(respAccept, "")), 0},
		"NUL in the body":      {atEOM(add, packet(respBody, "a\x00b"), packet(respAccept, "")), 0},
		"progress for ever": {func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdEOM)
			for {
				if _, err := p.Write(packet(respProgress, "")); err != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		}, 10 * time.Minute},
		"a new body for ever": {func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdEOM)
			for {
				if _, err := p.Write(packet(respBody, strings.Repeat("x", chunk))); err != nil {
					return
				}
			}
		}, 0},
		"changes for ever": {func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdEOM)
			for {
				if _, err := p.Write(add); err != nil {
					return
				}
			}
		}, 0},
	}
	for name, tt := range serve {
		for on, want := range map[OnFailure]string{
			"": "451 4.7.1 Service unavailable - try again later", Accept: "pass", Reject: "550 5.7.1 Command rejected",
		} {
			t.Run(name+"/"+string(on), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFilter(t, Config{OnFailure: on, MaxReply: 8 << 20, Dial: dialer(t, tt.f), Log: slog.New(slog.DiscardHandler)})
					began := time.Now()
					msg := note + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10000)
					v, _ := policy.Judge(t.Context(), f, client(), &policy.Mail{From: addr("a@b.test")}, []mail.Address{addr("c@d.test")}, [][]byte{[]byte(msg)})
					if got := word(v); got != want || v.Message != nil {
						t.Errorf("%s, want %s", got, want)
					}
					if took := time.Since(began); took != tt.within {
						t.Errorf("after %v, want %v", took, tt.within)
					}
					time.Sleep(2 * time.Hour) // for those that sleep
				})
			})
		}
	}
}

// TestProgress: who makes progress may take longer than MessageTimeout.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, Config{Dial: dialer(t, func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdEOM)
			for range 9 {
				time.Sleep(time.Minute)
				p.say(respProgress)
			}
			p.say(respReject)
			p.until(cmdQuit)
		})})
		if got := word(judge(t, f, note)); got != "550 5.7.1 Command rejected" {
			t.Error(got)
		}
	})
}

// TestGivenUp: a caller that waits no longer gets a refusal for now, whatever
// OnFailure says, and at once.
func TestGivenUp(t *testing.T) {
	for _, on := range []OnFailure{Tempfail, Accept, Reject} {
		synctest.Test(t, func(t *testing.T) {
			f := newFilter(t, Config{OnFailure: on, Dial: dialer(t, func(p *peer) {
				p.negotiate(onlyEOM)
				io.Copy(io.Discard, p)
			})})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			began := time.Now()
			v, _ := policy.Judge(ctx, f, client(), &policy.Mail{}, []mail.Address{addr("c@d.test")}, [][]byte{[]byte(note)})
			if got := word(v); got != "451 4.7.1 Service unavailable - try again later" || time.Since(began) != 3*time.Second {
				t.Errorf("%s: %s after %v", on, got, time.Since(began))
			}
			// It was not the filter's fault.
			if !f.mayTry() {
				t.Errorf("%s: the filter is not tried any more", on)
			}
		})
	}
}

// TestPause: a filter that cannot be reached is tried again after 1 s, 2 s, up to
// 30, by one session, and what is not tried is OnFailure at once.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			tries []time.Duration
			began = time.Now()
			up    bool
			log   bytes.Buffer
		)
		ok := dialer(t, func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdQuit)
		})
		f := newFilter(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			tries = append(tries, time.Since(began).Round(time.Second))
			if up {
				return ok(ctx, network, addr)
			}
			return nil, errors.New("connection refused")
		}})
		open := func() int {
			s, err := f.Open(t.Context(), client())
			if err == nil {
				s.Close()
			}
			return code(err)
		}
		for time.Since(began) < 100*time.Second {
			if c := open(); c != 451 {
				t.Errorf("%d, want 451", c)
			}
			time.Sleep(100 * time.Millisecond)
		}
		want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(tries, want) {
			t.Errorf("tried at %v, want %v", tries, want)
		}
		up = true
		time.Sleep(30 * time.Second)
		for range 3 {
			if c := open(); c != 0 {
				t.Errorf("%d when it is there again", c)
			}
		}
		if n := strings.Count(log.String(), "filter answers again"); n != 1 {
			t.Errorf("%d lines that it answers again", n)
		}
		if n := strings.Count(log.String(), "filter not asked"); n != len(want) {
			t.Errorf("%d lines that it does not, want %d", n, len(want))
		}
	})
}

// TestOneProbe: while one session tries, the others do not wait.
func TestOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		f := newFilter(t, Config{OnFailure: Accept, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials++
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		one := func() time.Duration {
			began := time.Now()
			s, err := f.Open(t.Context(), client())
			if err != nil {
				t.Error(err)
				return 0
			}
			if v := s.Message(t.Context(), [][]byte{[]byte(note)}); word(v) != "pass" {
				t.Error(word(v))
			}
			s.Close()
			return time.Since(began)
		}
		if d := one(); d != 30*time.Second {
			t.Errorf("the first took %v", d)
		}
		time.Sleep(2 * time.Second)
		took := make(chan time.Duration)
		for range 5 {
			go func() { took <- one() }()
		}
		var sum time.Duration
		for range 5 {
			sum += <-took
		}
		if sum != 30*time.Second || dials != 2 {
			t.Errorf("%d dials, the sessions took %v together", dials, sum)
		}
	})
}

// record serves a filter that answers each event by answer, and writes down what
// it was told.
func record(protocol uint32, macros string, heard *[]string, answer func(code byte, data []byte) [][]byte) func(p *peer) {
	return func(p *peer) {
		p.until(cmdNegotiate)
		p.Write(packet(cmdNegotiate, string(negotiation(protocol))+macros))
		for {
			code, data := p.next()
			if code == 0 {
				return
			}
			text := string(data)
			if code == cmdBody && len(text) > 40 {
				text = fmt.Sprintf("%d octets", len(text))
			}
			*heard = append(*heard, fmt.Sprintf("%c %q", code, text))
			if code == cmdMacros || code == cmdAbort || code == cmdQuit {
				continue
			}
			packets := [][]byte{packet(respContinue, "")}
			if answer != nil {
				if other := answer(code, data); other != nil {
					packets = other
				}
			}
			p.Write(bytes.Join(packets, nil))
		}
	}
}

// session opens a session with a filter that is recorded.
func open(t *testing.T, f *Filter, c *policy.Client) policy.Session {
	t.Helper()
	s, err := f.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantHeard(t *testing.T, heard []string, want ...string) {
	t.Helper()
	if !slices.Equal(heard, want) {
		t.Errorf("heard\n%s\nwant\n%s", strings.Join(heard, "\n"), strings.Join(want, "\n"))
	}
}

// TestDialogue: a session with STARTTLS, a login, a message, one that is given up,
// and one that ends with the session.
func TestDialogue(t *testing.T) {
	var heard []string
	done := make(chan struct{})
	serve := record(0, "", &heard, nil)
	f := newFilter(t, Config{
		Dial: dialer(t, func(p *peer) { defer close(done); serve(p) }),
		Host: func(_ context.Context, a netip.Addr) (string, bool) { return "host." + a.String(), true },
	})
	c := client()
	c.Remote = netip.MustParseAddrPort("[2001:db8::7]:4711")
	s, ctx := open(t, f, c), t.Context()
	c.Helo = "first.test"
	s.Hello(ctx, c)
	c.Helo, c.AuthUser, c.AuthType = "second.test", "ann@example.com", "PLAIN"
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "client\n"}, Issuer: pkix.Name{CommonName: "CA"}}
	c.TLS = &tls.ConnectionState{
		Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}},
	}
	s.Hello(ctx, c)
	s.Mail(ctx, c, &policy.Mail{From: addr("ann@client.test"), Size: 70100, Body: mail.Body8BitMIME, SMTPUTF8: true, QueueID: "Q1"})
	s.Rcpt(ctx, addr(`"eva x"@example.com`))
	s.Rcpt(ctx, addr("postmaster"))
	head, body := "A:  b\r\nB : c\r\n\td\r\n\r\n", strings.Repeat(strings.Repeat("x", 68)+"\r\n", 1000)
	if v := s.Message(ctx, [][]byte{[]byte(head[:9]), []byte(head[9:]), []byte(body)}); word(v) != "pass" || v.Message != nil {
		t.Errorf("%+v", v)
	}
	s.Reset() // nothing is under way
	s.Mail(ctx, c, &policy.Mail{QueueID: "Q2"})
	s.Reset()
	s.Mail(ctx, c, &policy.Mail{QueueID: "Q3"})
	s.Rcpt(ctx, addr("eva@example.com"))
	s.Close()
	<-done
	wantHeard(t, heard,
		`D "Cj\x00mx.test\x00{daemon_name}\x00mx\x00{daemon_addr}\x00192.0.2.1\x00{daemon_port}\x0025\x00v\x00Postern\x00_\x00host.2001:db8::7 [2001:db8::7]\x00{client_addr}\x00IPv6:2001:db8::7\x00{client_name}\x00host.2001:db8::7\x00{client_port}\x004711\x00{client_ptr}\x00host.2001:db8::7\x00"`,
		`C "host.2001:db8::7\x006\x12g2001:db8::7\x00"`,
		`H "first.test\x00"`,
		`D "H{tls_version}\x00TLSv1.2\x00{cipher}\x00ECDHE-RSA-AES128-GCM-SHA256\x00{cipher_bits}\x00128\x00{cert_subject}\x00client?\x00{cert_issuer}\x00CA\x00"`,
		`H "second.test\x00"`,
		`D "Mi\x00Q1\x00{auth_type}\x00PLAIN\x00{auth_authen}\x00ann@example.com\x00{mail_addr}\x00ann@client.test\x00{mail_host}\x00client.test\x00{mail_mailer}\x00smtp\x00"`,
		`M "<ann@client.test>\x00SIZE=70100\x00BODY=8BITMIME\x00SMTPUTF8\x00"`,
		`D "Ri\x00Q1\x00{rcpt_addr}\x00\"eva x\"@example.com\x00{rcpt_host}\x00example.com\x00{rcpt_mailer}\x00smtp\x00"`,
		`R "<\"eva x\"@example.com>\x00"`,
		`D "Ri\x00Q1\x00{rcpt_addr}\x00postmaster\x00{rcpt_mailer}\x00smtp\x00"`,
		`R "<postmaster>\x00"`,
		`D "Ti\x00Q1\x00"`, `T ""`,
		`L "A\x00 b\x00"`, `L "B\x00c\n\td\x00"`,
		`D "Ni\x00Q1\x00"`, `N ""`,
		`B "65535 octets"`, `B "4465 octets"`,
		`D "Ei\x00Q1\x00"`, `E ""`,
		`D "Mi\x00Q2\x00{auth_type}\x00PLAIN\x00{auth_authen}\x00ann@example.com\x00{mail_addr}\x00\x00{mail_host}\x00mx.test\x00{mail_mailer}\x00smtp\x00"`, `M "<>\x00"`, `A ""`,
		`D "Mi\x00Q3\x00{auth_type}\x00PLAIN\x00{auth_authen}\x00ann@example.com\x00{mail_addr}\x00\x00{mail_host}\x00mx.test\x00{mail_mailer}\x00smtp\x00"`, `M "<>\x00"`,
		`D "Ri\x00Q3\x00{rcpt_addr}\x00eva@example.com\x00{rcpt_host}\x00example.com\x00{rcpt_mailer}\x00smtp\x00"`, `R "<eva@example.com>\x00"`,
		`A ""`, `Q ""`,
	)
}

// TestNegotiated: what a filter does not want is not sent, what it does not answer
// not waited for, and its lists of macros hold, for their stages.
func TestNegotiated(t *testing.T) {
	all := []string{
		`C "unknown\x00U"`, `H "client.test\x00"`, `M "<ann@client.test>\x00"`, `R "<eva@example.com>\x00"`, `T ""`,
		`L "From\x00<ann@client.test>\x00"`, `L "Subject\x00x\x00"`, `N ""`, `B "body\r\n"`, `E ""`,
	}
	const mute = mutConnect | mutHelo | mutMail | mutRcpt | mutData | mutHeader | mutEOH | mutBody
	for name, tt := range map[string]struct {
		protocol uint32
		macros   string
		want     []string
		answers  int
	}{
		"all":                {0, "", all, 10},
		"mute":               {mute, "", all, 1},
		"nothing":            {onlyEOM, "", []string{`E ""`}, 1},
		"no body and header": {noBody | noHeader, "", slices.Concat(all[:5], all[7:8], all[9:]), 7},
		"not offered":        {rejectedToo | 1<<28 | 1<<31, "", all, 10},
		"space":              {leadSpace, "", slices.Concat(all[:5], []string{`L "From\x00 <ann@client.test>\x00"`, `L "Subject\x00 x\x00"`}, all[7:]), 10},
		"its macros": {
			onlyEOM &^ noRcpt, "\x00\x00\x00\x03{i}, j rcpt_addr unknown\x00\x00\x00\x00\x05\x00\x00\x00\x00\x63x\x00",
			[]string{`D "R{i}\x00Q\x00j\x00mx.test\x00rcpt_addr\x00eva@example.com\x00"`, `R "<eva@example.com>\x00"`, `E ""`},
			2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var heard []string
			done := make(chan struct{})
			f := newFilter(t, Config{Dial: dialer(t, func(p *peer) {
				defer close(done)
				p.until(cmdNegotiate)
				p.Write(packet(cmdNegotiate, string(negotiation(tt.protocol))+tt.macros))
				answers := 0
				for {
					code, data := p.next()
					switch {
					case code == cmdQuit:
						if answers != tt.answers {
							t.Errorf("waited %d times for an answer, want %d", answers, tt.answers)
						}
						return
					case code == cmdMacros && (tt.macros == "" || data[0] != 'R'):
						continue
					}
					heard = append(heard, fmt.Sprintf("%c %q", code, data))
					if code != cmdMacros && (tt.protocol != mute || code == cmdEOM) {
						answers++
						p.say(respContinue)
					}
				}
			})})
			policy.Judge(t.Context(), f, &policy.Client{Helo: "client.test"}, &policy.Mail{From: addr("ann@client.test"), QueueID: "Q"},
				[]mail.Address{addr("eva@example.com")}, [][]byte{[]byte(note)})
			<-done
			wantHeard(t, heard, tt.want...)
		})
	}
}

// TestOldFilter: version 2 has no DATA.
func TestOldFilter(t *testing.T) {
	var heard []string
	done := make(chan struct{})
	f := newFilter(t, Config{Dial: dialer(t, func(p *peer) {
		defer close(done)
		p.until(cmdNegotiate)
		p.say(cmdNegotiate, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0)
		for {
			switch code, _ := p.next(); code {
			case cmdMacros:
			case cmdQuit:
				return
			default:
				heard = append(heard, string(code))
				p.say(respContinue)
			}
		}
	})})
	if got := word(judge(t, f, note)); got != "pass" {
		t.Error(got)
	}
	<-done
	wantHeard(t, heard, "C", "H", "M", "R", "R", "L", "L", "N", "B", "E")
}

// TestAnswers: what an answer means where.
func TestAnswers(t *testing.T) {
	const id = "550 5.7.9 mine\x00"
	codes := func(s policy.Session, msgs int) (all []int) {
		ctx, c := t.Context(), client()
		all = append(all, code(s.Hello(ctx, c)))
		for range msgs {
			err := s.Mail(ctx, c, &policy.Mail{From: addr("ann@client.test")})
			all = append(all, code(err))
			if err != nil {
				continue
			}
			for _, to := range []string{"eva@example.com", "bob@example.com"} {
				all = append(all, code(s.Rcpt(ctx, addr(to))))
			}
			v := s.Message(ctx, [][]byte{[]byte(note)})
			switch {
			case v.Reply != nil:
				all = append(all, v.Reply.Code)
			case v.Discard:
				all = append(all, -1)
			default:
				all = append(all, 0)
			}
		}
		return all
	}
	for name, tt := range map[string]struct {
		at     byte
		code   byte
		data   string
		codes  []int  // HELO, then twice MAIL, RCPT, RCPT, DATA
		events string // after HELO
	}{
		"continue":          {0, 0, "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRRTLLNBEMRRTLLNBEQ"},
		"accept at helo":    {'H', 'a', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "Q"},
		"reject at helo":    {'H', 'r', "", []int{550, 550, 550}, "Q"},
		"discard at helo":   {'H', 'd', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRRTLLNBEMRRTLLNBEQ"},
		"skip at helo":      {'H', 's', "", []int{451, 451, 451}, ""},
		"accept at mail":    {'M', 'a', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MAMAQ"},
		"reject at mail":    {'M', 'r', "", []int{0, 550, 550}, "MAMAQ"},
		"reply at mail":     {'M', 'y', "452 4.7.9 later\x00", []int{0, 452, 452}, "MAMAQ"},
		"shutdown at mail":  {'M', '4', "", []int{0, 421, 421}, "MQ"},
		"discard at mail":   {'M', 'd', "", []int{0, 0, 0, 0, -1, 0, 0, 0, -1}, "MAMAQ"},
		"tempfail at rcpt":  {'R', 't', "", []int{0, 0, 451, 451, 0, 0, 451, 451, 0}, "MRRTLLNBEMRRTLLNBEQ"},
		"accept at rcpt":    {'R', 'a', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRAMRAQ"},
		"skip at rcpt":      {'R', 's', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRTLLNBEMRTLLNBEQ"},
		"discard at rcpt":   {'R', 'd', "", []int{0, 0, 0, 0, -1, 0, 0, 0, -1}, "MRAMRAQ"},
		"reply at data":     {'T', 'y', id, []int{0, 0, 0, 0, 550, 0, 0, 0, 550}, "MRRTAMRRTAQ"},
		"discard at header": {'L', 'd', "", []int{0, 0, 0, 0, -1, 0, 0, 0, -1}, "MRRTLAMRRTLAQ"},
		"skip at header":    {'L', 's', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRRTLNBEMRRTLNBEQ"},
		"accept at eoh":     {'N', 'a', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRRTLLNAMRRTLLNAQ"},
		"skip at body":      {'B', 's', "", []int{0, 0, 0, 0, 0, 0, 0, 0, 0}, "MRRTLLNBEMRRTLLNBEQ"},
		"shutdown at body":  {'B', '4', "", []int{0, 0, 0, 0, 421, 421}, "MRRTLLNBAQ"},
		"reject at eom":     {'E', 'r', "", []int{0, 0, 0, 0, 550, 0, 0, 0, 550}, "MRRTLLNBEMRRTLLNBEQ"},
		"shutdown at eom":   {'E', '4', "", []int{0, 0, 0, 0, 421, 421}, "MRRTLLNBEQ"},
		"change at header":  {'L', 'h', "X\x00y\x00", []int{0, 0, 0, 0, 451, 451}, "MRRTL"},
	} {
		t.Run(name, func(t *testing.T) {
			var heard []string
			done := make(chan struct{})
			serve := record(canSkip, "", &heard, func(code byte, _ []byte) [][]byte {
				if code == tt.at {
					return [][]byte{packet(tt.code, tt.data)}
				}
				return nil
			})
			f := newFilter(t, Config{Dial: dialer(t, func(p *peer) { defer close(done); serve(p) })})
			s := open(t, f, client())
			if got := codes(s, 2); !slices.Equal(got, tt.codes) {
				t.Errorf("%v, want %v", got, tt.codes)
			}
			s.Close()
			<-done
			got := ""
			for _, h := range heard {
				if h[0] != cmdMacros && h[0] != cmdConnect && h[0] != cmdHelo {
					got += h[:1]
				}
			}
			if got != tt.events {
				t.Errorf("events %s, want %s", got, tt.events)
			}
		})
	}

	// At connect.
	for answer, want := range map[string]int{"r": 550, "t": 451, "4": 421, "y" + id: 550, "a": 0, "c": 0, "d": 0, "x": 451} {
		f := newFilter(t, Config{Dial: dialer(t, func(p *peer) {
			p.negotiate(onlyEOM &^ noConnect)
			p.until(cmdConnect)
			p.say(answer[0], []byte(answer[1:])...)
			p.until(cmdQuit)
		})})
		s, err := f.Open(t.Context(), client())
		if code(err) != want || (s == nil) != (err != nil) {
			t.Errorf("%.1q at connect: %v, want %d", answer, err, want)
		}
		if s != nil {
			s.Close()
		}
	}
}

// TestEnvelope: what becomes of changes of the sender and the recipients.
func TestEnvelope(t *testing.T) {
	rcpt := func(code byte, s string) []byte { return packet(code, s+"\x00") }
	for name, tt := range map[string]struct {
		packets [][]byte
		want    string
	}{
		"nothing":               {nil, "pass: [] []"},
		"sender":                {[][]byte{rcpt('e', "<x@y.test>")}, "sender changed: x@y.test [] []"},
		"sender with arguments": {[][]byte{rcpt('e', "x@y.test\x00SIZE=1 ENVID=a")}, "sender changed: x@y.test [] []"},
		"null sender":           {[][]byte{rcpt('e', "<>")}, "sender changed: <> [] []"},
		"empty sender":          {[][]byte{rcpt('e', "")}, "sender changed: <> [] []"},
		"twice":                 {[][]byte{rcpt('e', "a@b.test"), rcpt('e', "c@d.test")}, "sender changed: c@d.test [] []"},
		"bad sender":            {[][]byte{rcpt('e', "<x@y"), rcpt('e', "x y@z"), rcpt('e', "<a@b.test>\r\nRCPT"), rcpt('e', "ü@y.test")}, "pass: [] []"},
		"one more":              {[][]byte{rcpt('+', "<x@y.test>"), rcpt('2', "<X@y.test>\x00NOTIFY=NEVER"), rcpt('2', "z@y.test")}, "2 recipients added: [x@y.test z@y.test] []"},
		"who is there":          {[][]byte{rcpt('+', "EVA@example.com")}, "pass: [] []"},
		"bad ones":              {[][]byte{rcpt('+', "<>"), rcpt('+', ""), rcpt('+', "<x>"), rcpt('-', "<>"), rcpt('-', "nobody@example.com")}, "pass: [] []"},
		"one less":              {[][]byte{rcpt('-', "<EVA@EXAMPLE.com>")}, "1 recipient removed: [] [eva@example.com]"},
		"back again":            {[][]byte{rcpt('-', "<eva@example.com>"), rcpt('+', "<eva@example.com>")}, "pass: [] []"},
		"and away":              {[][]byte{rcpt('+', "<x@y.test>"), rcpt('-', "<x@y.test>")}, "pass: [] []"},
		"redirected":            {[][]byte{rcpt('-', "<eva@example.com>"), rcpt('-', "bob@example.com"), rcpt('+', "<trap@example.com>")}, "1 recipient added, 2 recipients removed: [trap@example.com] [eva@example.com bob@example.com]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFilter(t, Config{Dial: dialer(t, atEOM(append(tt.packets, packet(respContinue, ""))...))})
			v := judge(t, f, note)
			from := ""
			if v.ReversePath != nil {
				if from = v.ReversePath.String() + " "; v.ReversePath.IsNull() {
					from = "<> "
				}
			}
			if got := fmt.Sprint(word(v), ": ", from, v.Add, " ", v.Remove); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// TestHangsAtOnce: a filter whose port answers and that says nothing of clients is
// not asked by each of them.
func TestHangsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilter(t, Config{OnFailure: Accept, Dial: dialer(t, func(p *peer) {
			p.negotiate(0)
			io.Copy(io.Discard, p)
		})})
		began := time.Now()
		for range 10 {
			s := open(t, f, client())
			s.Close()
		}
		if d := time.Since(began); d != 30*time.Second {
			t.Errorf("ten sessions took %v", d)
		}
	})
}

// TestCounted: each message and each refusal is counted, once.
func TestCounted(t *testing.T) {
	outcomes := []string{"pass", "changed", "reject", "tempfail", "discard", "hold", "failed"}
	before := map[string]float64{} // it may run several times
	counted := func(name, outcome string) float64 {
		return testutil.ToFloat64(metrics.MilterRequests.With(name, outcome)) - before[name+outcome]
	}
	for want, serve := range map[string]func(p *peer){
		"pass":     atEOM(packet(respAccept, "")),
		"changed":  atEOM(packet(respAddHeader, "X\x00y\x00"), packet(respAccept, "")),
		"reject":   atEOM(packet(respReject, "")),
		"tempfail": atEOM(packet(respTempfail, "")),
		"discard":  atEOM(packet(respDiscard, "")),
		"hold":     atEOM(packet(respQuarant, "why\x00"), packet(respAccept, "")),
		"failed":   atEOM(packet('z', "")),
	} {
		name := "counted " + want
		f := newFilter(t, Config{Name: name, Dial: dialer(t, serve)})
		for _, outcome := range outcomes {
			before[name+outcome] = counted(name, outcome)
		}
		for range 3 {
			judge(t, f, note)
		}
		for _, outcome := range outcomes {
			n := counted(name, outcome)
			if outcome == want && n != 3 || outcome != want && n != 0 {
				t.Errorf("%s: %v counted as %s", want, n, outcome)
			}
		}
	}
	before["counted awayfailed"] = counted("counted away", "failed")
	// A filter that is not there: the session that tried and those that did not.
	f := newFilter(t, Config{Name: "counted away", OnFailure: Accept, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("connection refused")
	}})
	for range 3 {
		judge(t, f, note)
	}
	if n := counted("counted away", "failed"); n != 4 { // the session, three messages
		t.Errorf("%v failures", n)
	}
}

// TestManyChanges: the line for the log stays short.
func TestManyChanges(t *testing.T) {
	packets := make([][]byte, 100)
	for i := range packets {
		packets[i] = packet(respAddHeader, fmt.Sprintf("X-%d\x00y\x00", i))
	}
	f := newFilter(t, Config{Dial: dialer(t, atEOM(append(packets, packet(respQuarant, "\x00"), packet(respAccept, ""))...))})
	v := judge(t, f, note)
	if !strings.HasPrefix(v.Changes, "X-0 added, X-1 added,") || !strings.HasSuffix(v.Changes, "X-19 added, 80 more") {
		t.Error(v.Changes)
	}
	if v.Hold != "quarantined by f" {
		t.Errorf("held because of %q", v.Hold)
	}
}

// TestMostChanges: a filter may change so much, and not more.
func TestMostChanges(t *testing.T) {
	for n, want := range map[int]string{maxEdits: "1 recipient added", maxEdits + 1: "451 4.7.1 Service unavailable - try again later"} {
		packets := slices.Repeat([][]byte{packet(respAddRcpt, "x@example.com\x00")}, n)
		f := newFilter(t, Config{Dial: dialer(t, func(p *peer) {
			p.negotiate(onlyEOM)
			p.until(cmdEOM)
			for _, b := range packets {
				if _, err := p.Write(b); err != nil {
					return
				}
			}
			p.say(respAccept)
			p.until(cmdQuit)
		})})
		if got := word(judge(t, f, note)); got != want {
			t.Errorf("%d changes: %s, want %s", n, got, want)
		}
	}
}

// TestMacrosEnd: what is known of one message is not said of the next, and what a
// certificate says only if somebody vouches for it.
func TestMacrosEnd(t *testing.T) {
	var heard []string
	done := make(chan struct{})
	serve := record(onlyEOM, "\x00\x00\x00\x02{mail_addr} {rcpt_addr} i {auth_authen}\x00", &heard, nil)
	f := newFilter(t, Config{Dial: dialer(t, func(p *peer) { defer close(done); serve(p) })})
	ctx, c := t.Context(), client()
	s := open(t, f, c)
	c.AuthUser = "ann"
	s.Mail(ctx, c, &policy.Mail{From: addr("ann@client.test"), QueueID: "Q1"})
	s.Rcpt(ctx, addr("eva@example.com"))
	s.Message(ctx, [][]byte{[]byte(note)})
	c.AuthUser = ""
	s.Mail(ctx, c, &policy.Mail{From: addr("bob@client.test")})
	s.Close()
	<-done
	heard = slices.DeleteFunc(heard, func(h string) bool { return !strings.HasPrefix(h, `D "M`) })
	wantHeard(t, heard, `D "M{mail_addr}\x00ann@client.test\x00i\x00Q1\x00{auth_authen}\x00ann\x00"`, `D "M{mail_addr}\x00bob@client.test\x00"`)

	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "anybody"}, Issuer: pkix.Name{CommonName: "anybody"}}
	v := values{}
	v.hello(&policy.Client{TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_256_GCM_SHA384, PeerCertificates: []*x509.Certificate{cert}}})
	if got := string(v.append(nil, defaultMacros[stageHelo])); got != "{tls_version}\x00TLSv1.3\x00{cipher}\x00TLS_AES_256_GCM_SHA384\x00{cipher_bits}\x00256\x00" {
		t.Errorf("%q", got)
	}
	for name, want := range map[uint16]string{ // as OpenSSL has them
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: "ECDHE-ECDSA-CHACHA20-POLY1305",
		tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA:            "ECDHE-RSA-AES256-SHA",
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               "AES128-GCM-SHA256",
		tls.TLS_RSA_WITH_AES_128_CBC_SHA256:               "AES128-SHA256",
	} {
		if got := cipher(tls.CipherSuiteName(name)); got != want {
			t.Errorf("%s: %s, want %s", tls.CipherSuiteName(name), got, want)
		}
	}
}

// octets is a connection that says what it was given and takes everything.
type octets struct {
	net.Conn
	*bytes.Reader
}

func (o octets) Read(b []byte) (int, error) { return o.Reader.Read(b) }
func (octets) Write(b []byte) (int, error)  { return len(b), nil }
func (octets) Close() error                 { return nil }
func (octets) SetDeadline(time.Time) error  { return nil }
func (octets) LocalAddr() (a net.Addr)      { return a }
func (octets) RemoteAddr() (a net.Addr)     { return a }

// FuzzAnswers: whatever a filter says, there is a verdict, and a sound one.
func FuzzAnswers(f *testing.F) {
	hello := packet(cmdNegotiate, string(negotiation(0)))
	all := func(packets ...[]byte) []byte { return bytes.Join(append([][]byte{hello}, packets...), nil) }
	c := packet(respContinue, "")
	f.Add(all(c, c, c, c, c, c, c, c, c, packet(respAddHeader, "X\x00y\x00"), c), uint8(0))
	f.Add(all(c, c, c, packet(respReply, "550-5.7.1 a\r\n550 5.7.1 b\x00")), uint8(1))
	eom := packet(cmdNegotiate, string(negotiation(onlyEOM)))
	for _, p := range [][]byte{
		packet(respChgHeader, "\x00\x00\x00\x01Subject\x00\x00"), packet(respInsHeader, "\x00\x00\x00\x01A\x00b\nc\x00"),
		packet(respBody, "a\nb"), packet(respChgFrom, "<a@b.c>\x00SIZE=1\x00"), packet(respAddRcpt2, "a@b.c\x00"),
		packet(respDelRcpt, "<eva@example.com>\x00"), packet(respQuarant, "why\x00"), packet(respProgress, ""),
	} {
		f.Add(bytes.Join([][]byte{eom, p, p, packet(respAccept, "")}, nil), uint8(2))
	}
	f.Fuzz(func(t *testing.T, data []byte, on uint8) {
		cfg := Config{
			Name: "f", Address: "unix:/f", OnFailure: []OnFailure{Tempfail, Accept, Reject}[on%3], MaxReply: 1 << 20,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return octets{Reader: bytes.NewReader(data)}, nil
			},
		}
		filter, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		to := []mail.Address{addr("eva@example.com"), addr("bob@example.com")}
		v, refused := policy.Judge(context.Background(), filter, client(), &policy.Mail{From: addr("a@b.test")}, to, [][]byte{[]byte(note)})
		for _, r := range append(refused, v.Reply) {
			if r != nil && (r.Code < 400 || r.Code > 599 || r.Text == "" || strings.Trim(printable(strings.ReplaceAll(r.Text, "\n", " ")), "?") != strings.Trim(strings.ReplaceAll(r.Text, "\n", " "), "?")) {
				t.Fatalf("reply %+v", r)
			}
		}
		set := 0
		for _, b := range []bool{v.Reply != nil, v.Discard, v.Hold != ""} {
			if b {
				set++
			}
		}
		if set > 1 || (v.Reply != nil || v.Discard) && (v.Changes != "" || v.Message != nil || v.Add != nil || v.Remove != nil || v.ReversePath != nil) {
			t.Fatalf("verdict %+v", v)
		}
		if v.Message != nil {
			if rest := bytes.ReplaceAll(v.Message, crlf, nil); bytes.ContainsAny(rest, "\r\n\x00") {
				t.Fatalf("message %q", v.Message)
			}
		}
		if (v.Changes == "") != (v.Message == nil && v.Add == nil && v.Remove == nil && v.ReversePath == nil) &&
			len(v.Add)+len(v.Remove) > 0 {
			t.Fatalf("verdict %+v", v)
		}
		for _, a := range v.Remove {
			if !slices.Contains(to, a) {
				t.Fatalf("%v removed", a)
			}
		}
	})
}
