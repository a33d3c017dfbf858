package imapd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"
)

// selfSigned makes a certificate for tests.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestTwoSessions has one session change what the other sees.
func TestTwoSessions(t *testing.T) {
	f := start(t, nil)
	a := f.withMessages()
	b := f.login("eva@example.test")
	a.do("SELECT INBOX")
	b.do("SELECT INBOX")
	b.do(`STORE 2 +FLAGS (\Flagged new)`)
	a.talk(`
		C: a NOOP
		S: * FLAGS (\Seen \Answered \Flagged \Deleted \Draft new)
		S: * OK [PERMANENTFLAGS *
		S: * 2 FETCH (FLAGS (\Flagged new))
		S: a OK *`)
	b.do(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	b.do("EXPUNGE")
	b.appendMail("INBOX", "", "A: b\r\n")
	a.talk(`
		note: nothing disappears during FETCH, STORE and SEARCH
		C: a FETCH 2:3 UID
		S: * 2 FETCH (UID 2)
		S: * 3 FETCH (UID 3)
		S: * 4 EXISTS
		S: a OK *
		C: a FETCH 1 FLAGS
		S: a OK [EXPUNGEISSUED] *
		C: a STORE 1:2 +FLAGS (\Draft)
		S: * 2 FETCH (FLAGS (\Flagged \Draft new))
		S: a OK [EXPUNGEISSUED] *
		C: a SEARCH ALL
		S: * SEARCH 2 3 4
		S: a OK *
		C: a COPY 1 Trash
		S: * 1 EXPUNGE
		S: a OK Some *
		C: a FETCH 1 UID
		S: * 1 FETCH (UID 2)
		S: a OK *`)
	b.do(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	b.do("EXPUNGE")
	a.talk(`
		C: a UID FETCH 3 FLAGS
		S: * 2 FETCH (UID 3 FLAGS ())
		S: * 1 EXPUNGE
		S: a OK *`)
	b.talk("C: i IDLE\nS: + *")
	a.do(`STORE 1 +FLAGS (\Answered)`)
	b.talk(`S: * 1 FETCH (FLAGS (\Answered))`)
	a.appendMail("INBOX", "", "A: c\r\n")
	b.talk(`S: * 3 EXISTS`)
	a.do("MOVE 1:2 Trash")
	b.talk("S: * 1 EXPUNGE\nS: * 1 EXPUNGE\nC: DONE\nS: i OK *")
	// Silence is for the session's own changes only.
	a.do("FETCH 1 FLAGS")
	b.do(`STORE 1 +FLAGS.SILENT (\Seen)`)
	a.talk("C: a STORE 1 +FLAGS.SILENT (\\Draft)\nS: * 1 FETCH (FLAGS (\\Seen))\nS: a OK *")
	// The mailbox goes away.
	a.do("CREATE box")
	a.do("SELECT box")
	a.talk("C: i IDLE\nS: + *")
	b.do("DELETE box")
	a.talk("S: * BYE *\n=")
}

// TestIdleAtOnce bounds how long a change takes to another session.
func TestIdleAtOnce(t *testing.T) {
	f := start(t, nil)
	a, b := f.login("eva@example.test"), f.login("eva@example.test")
	b.do("SELECT INBOX")
	b.talk("C: i IDLE\nS: + *")
	for n := range 50 {
		begun := time.Now()
		a.appendMail("INBOX", "", "A: b\r\n")
		b.talk("S: * " + strconv.Itoa(n+1) + " EXISTS")
		if took := time.Since(begun); took > time.Second {
			t.Errorf("message %d took %v", n, took)
		}
	}
}

// TestIdleEndsWithChange has changes come while the client ends its IDLE.
func TestIdleEndsWithChange(t *testing.T) {
	f := start(t, nil)
	a, b := f.login("eva@example.test"), f.login("eva@example.test")
	b.do("SELECT INBOX")
	for n := 1; n <= 50; n++ {
		b.talk("C: i IDLE\nS: + *\nC+ DO")
		a.appendMail("INBOX", "", "A: b\r\n")
		b.talk("C: NE\nS: * " + strconv.Itoa(n) + " EXISTS\nS: i OK *")
	}
}

// TestIdleMemory bounds what a session costs that waits in IDLE. The client is
// in the same process: with TLS its half of the connection is counted too.
func TestIdleMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIP: the race detector's memory would be measured")
	}
	const sessions = 300
	cert := selfSigned(t)
	for name, most := range map[string]int64{"plain": 30 << 10, "TLS": 80 << 10} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(c *Config) {
				c.SessionsPerAccount = sessions + 1
				if name == "TLS" {
					c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}
				}
			})
			connect := func() *client {
				c := f.dial()
				if name == "TLS" {
					c.conn = tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
					c.r.Reset(c.conn)
				}
				c.line()
				c.do("LOGIN eva@example.test secret")
				c.do("SELECT INBOX")
				c.talk("C: i IDLE\nS: + *")
				return &client{t: t, conn: c.conn}
			}
			first := connect()
			before := inUse()
			clients := make([]*client, sessions)
			for i := range clients {
				clients[i] = connect()
			}
			per := (inUse() - before) / sessions
			t.Logf("%d octets a session", per)
			if per > most {
				t.Errorf("%d octets a session", per)
			}
			runtime.KeepAlive(clients)
			runtime.KeepAlive(first)
		})
	}
}

func inUse() int64 {
	for range 3 { // pools are emptied in two rounds, stacks shrink in one
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
