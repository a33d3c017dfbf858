package lmtpd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t testing.TB, boxes Mailboxes, relay bool) *smtp.Client {
	t.Helper()
	s, err := New(Config{Mailboxes: boxes, Hostname: "store.test", Domain: "example.test", PrivateFor: func(*smtp.ConnInfo) bool { return relay }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ctx, l) }()
	c, err := smtp.Dial(ctx, l.Addr().String(), smtp.ClientConfig{Protocol: smtp.LMTP, Hello: "relay.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		l.Close()
		cancel()
		<-done
	})
	return c
}

func send(t testing.TB, c *smtp.Client, body string, rcpts ...smtp.RcptArgs) *smtp.Result {
	t.Helper()
	res, err := c.Send(context.Background(), &smtp.Transaction{
		Mail: smtp.MailArgs{From: mail.Address{Local: "a", Domain: "x.test"}, Size: -1}, Rcpts: rcpts, Body: [][]byte{[]byte(body)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func to(local string, private ...string) smtp.RcptArgs {
	a := smtp.RcptArgs{To: mail.Address{Local: local, Domain: "example.test"}}
	for i := 0; i < len(private); i += 2 {
		if a.Private == nil {
			a.Private = map[string]string{}
		}
		a.Private[private[i]] = private[i+1]
	}
	return a
}

const text = "Subject: hello\r\n\r\n.body\r\n"

func TestReplies(t *testing.T) {
	boxes := mailboxtest.New(t)
	c := serve(t, boxes, true)
	if p, ok := c.Extension("X-TT"); !ok || p != "1 XVACATION XCLAIM XPART XWELCOME XBODY XPOSTER" {
		t.Fatalf("X-TT %q, %v", p, ok)
	}
	key := mail.NewDeliveryKey("r", "q", "k").String()
	other, third := mail.NewDeliveryKey("r", "q", "o").String(), mail.NewDeliveryKey("r", "q", "t").String()
	hash := strings.Repeat("5a", 16)
	for _, tt := range []struct {
		name, body string
		rcpt       smtp.RcptArgs
		want       string
	}{
		{"first use makes the mailbox", text, to("Ann"), "250 2.1.5 <Ann@example.test> delivered"},
		{"missing folder", text, to("ann", "XFOLDER", "Wörk"), "250 2.1.5 <ann@example.test> delivered to INBOX, there is no such folder"},
		{"folder that is there", text, to("ann", "XFOLDER", "Junk"), "250 2.1.5 <ann@example.test> delivered"},
		{"key", text, to("bob", "XKEY", key), "250 2.1.5 <bob@example.test> delivered"},
		{"key again", text, to("bob", "XKEY", key), "250 2.1.5 <bob@example.test> delivered, by an earlier attempt"},
		{"key with another body", text + "x\r\n", to("bob", "XKEY", key), "451 4.3.0 *"},
		{"over quota", text, to("cat", "XQUOTA", "5,-1,1"), "452 4.2.2 *"},
		{"nothing allowed", text, to("dan", "XQUOTA", "0,-1,1"), "552 5.2.2 *"},
		{"over quota, guaranteed", text, to("cat", "XQUOTA", "5,-1,1", "XDFLG", "2"), "250 2.1.5 *"},
		{"first of a sender", text, to("fay", "XVACATION", hash+",3600"), "250 2.1.5 <fay@example.test> delivered vacation=reply"},
		{"second of a sender", text, to("fay", "XVACATION", hash+",3600", "XKEY", other), "250 2.1.5 <fay@example.test> delivered vacation=none"},
		{"not to be stored", text, to("fay", "XVACATION", hash+",0,only", "XKEY", third), "250 2.1.5 <fay@example.test> not stored, as its owner wishes vacation=reply"},
		{"not to be stored, again", text, to("fay", "XVACATION", hash+",3600,only", "XKEY", third), "250 2.1.5 <fay@example.test> not stored, as its owner wishes vacation=reply"},
		{"decided before", text, to("fay", "XVACATION", hash+",0", "XKEY", other), "250 2.1.5 <fay@example.test> delivered, by an earlier attempt vacation=none"},
		{"partition", text, to("gil", "XPART", "p1"), "250 2.1.5 <gil@example.test> delivered"},
		{"flags", text, to("eve", "XFLAGS", `\Seen,\Flagged`), "250 2.1.5 *"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res := send(t, c, tt.body, tt.rcpt)
			got := fmt.Sprint(res.Data[0])
			prefix, open := strings.CutSuffix(tt.want, "*")
			if open && !strings.HasPrefix(got, prefix) || !open && got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	acc, err := boxes.Account(context.Background(), "ann@example.test")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := acc.Status(context.Background(), "INBOX"); err != nil || info.Messages != 2 {
		t.Errorf("INBOX has %d messages, want 2: %v", info.Messages, err)
	}
}

// TestClaims: the answers to XCLAIM, of a pair on a level that can claim and of
// one that cannot yet.
func TestClaims(t *testing.T) {
	hash, first, second := strings.Repeat("5a", 16)+",3600", strings.Repeat("01", 16), strings.Repeat("02", 16)
	const due, none = "250 2.1.5 <ann@example.test> delivered vacation=reply", "250 2.1.5 <ann@example.test> delivered vacation=none"
	const given, refused = "250 2.1.5 <ann@example.test> not stored, as its owner wishes vacation=reply", "250 2.1.5 <ann@example.test> not stored, as its owner wishes vacation=none"
	ask, claim := []string{"XVACATION", hash, "XCLAIM", "later"}, []string{"XVACATION", hash + ",only", "XCLAIM", first}
	other := []string{"XVACATION", hash + ",only", "XCLAIM", second}
	for name, tt := range map[string]struct {
		level uint32
		want  map[int]string
	}{
		"now":    {2, map[int]string{0: due, 1: due, 2: given, 3: given, 4: refused, 5: none}},
		"before": {1, map[int]string{0: due, 1: none, 2: given, 3: given, 4: given, 5: none}},
	} {
		boxes, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Level = func() uint32 { return tt.level } })
		c := serve(t, boxes, true)
		for i, params := range [][]string{ask, ask, claim, claim, other, ask} {
			if got := fmt.Sprint(send(t, c, text, to("ann", params...)).Data[0]); got != tt.want[i] {
				t.Errorf("%s, %d: %s, want %s", name, i, got, tt.want[i])
			}
		}
		for i := uint64(1); ; i++ {
			b, err := log.ReadEntry(i, nil)
			if err != nil {
				break
			}
			if tt.level < 2 && b[0] > 2 {
				t.Errorf("entry %d has version %d", i, b[0])
			}
		}
	}
}

// TestPost: mail for a folder goes there if the folder grants p to the sender or
// to anyone, otherwise to INBOX, and the reply says so (directory.md 4.7).
func TestPost(t *testing.T) {
	owners := false
	boxes, _ := mailboxtest.NewWithLog(t, func(c *mailbox.Config) {
		c.Level, c.Owners = func() uint32 { return 2 }, func() bool { return owners }
	})
	c := serve(t, boxes, true)
	acc, err := boxes.Account(context.Background(), "ann@example.test")
	if err != nil {
		t.Fatal(err)
	}
	const there, refused = "250 2.1.5 <ann@example.test> delivered", "250 2.1.5 <ann@example.test> delivered to INBOX, the folder does not take it from who posts"
	deliver := func(want string, params ...string) {
		t.Helper()
		if got := fmt.Sprint(send(t, c, text, to("ann", append(params, "XFOLDER", "Junk")...)).Data[0]); got != want {
			t.Errorf("%q: %s, want %s", params, got, want)
		}
	}
	deliver(there)
	owners = true
	deliver(refused)
	deliver(refused, "XPOSTER", "eva@x.test")
	deliver(there, "XPOSTER", "ann@example.test ann.lee@x.test")
	if err := acc.SetGrant(context.Background(), "Junk", "team@x.test", mailbox.StoreAdd, "p"); err != nil {
		t.Fatal(err)
	}
	deliver(there, "XPOSTER", "Eva@X.test Team@X.test")
	deliver(refused, "XPOSTER", "eva@x.test")
	if err := acc.SetGrant(context.Background(), "Junk", mailbox.Anyone, mailbox.StoreAdd, "p"); err != nil {
		t.Fatal(err)
	}
	deliver(there)
	for name, want := range map[string]int{"Junk": 4, "INBOX": 3} {
		if info, err := acc.Status(context.Background(), name); err != nil || info.Messages != want {
			t.Errorf("%s: %d messages, want %d: %v", name, info.Messages, want, err)
		}
	}
}

func TestBadParameters(t *testing.T) {
	boxes := mailboxtest.New(t)
	zeros, key := strings.Repeat("00", 16), strings.Repeat("01", 16)
	for _, p := range [][]string{{"XKEY", "00"}, {"XKEY", strings.Repeat("z", 32)}, {"XKEY", strings.Repeat("0", 34)}, {"XQUOTA", "many"}, {"XFLAGS", `\Odd`}, {"XDFLG", "x"}, {"XVACATION", "00,1"}, {"XCLAIM", "later"}, {"XVACATION", zeros + ",1,only", "XCLAIM", "no"}, {"XVACATION", zeros + ",1", "XCLAIM", key}, {"XWELCOME", "2"}, {"XPART", ""}, {"XPART", "a b"}, {"XPART", strings.Repeat("p", 65)}, {"XPOSTER", ""}, {"XPOSTER", "a@b  c@d"}, {"XPOSTER", "a\xff@b"}, {"XPOSTER", strings.Repeat("a", 321)}} {
		res := send(t, serve(t, boxes, true), text, to("ann", p...))
		if r := res.Rcpts[0]; r == nil || r.Code != 501 {
			t.Errorf("%v: %v", p, r)
		}
	}
}

// TestBodyByName: a message that came with "new" need not come again for more
// recipients.
func TestBodyByName(t *testing.T) {
	boxes := mailboxtest.New(t)
	c := serve(t, boxes, true)
	transaction := func(word, body, who string) *smtp.Result {
		t.Helper()
		res, err := c.Send(context.Background(), &smtp.Transaction{
			Mail:  smtp.MailArgs{From: mail.Address{Local: "a", Domain: "x.test"}, Private: map[string]string{"XTRACE": "root", "XBODY": word}},
			Rcpts: []smtp.RcptArgs{to(who)}, Body: [][]byte{[]byte(body)}, UseBDAT: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	if r := transaction(name, "", "bob").Mail; r.Code != 451 || r.Status != mail.StatusUnknownBody {
		t.Errorf("before it came: %v", r)
	}
	for _, step := range []struct {
		word, body, who string
		code            int
	}{{"new", text, "ann", 250}, {name, "", "bob", 250}, {name, "another\r\n", "cat", 451}, {name, "", "dan", 250}} {
		if r := transaction(step.word, step.body, step.who).Data[0]; r == nil || r.Code != step.code {
			t.Errorf("%s: %v, want %d", step.who, r, step.code)
		}
	}
	for who, want := range map[string]uint32{"ann": 1, "bob": 1, "cat": 0, "dan": 1} {
		acc, err := boxes.Account(context.Background(), who+"@example.test")
		if err != nil {
			t.Fatal(err)
		}
		info, err := acc.Status(context.Background(), "INBOX")
		if err != nil || uint32(info.Messages) != want || want == 1 && int(info.Size) != len("Return-Path: <a@x.test>\r\n"+text) {
			t.Errorf("%s: %+v, %v", who, info, err)
		}
	}
	for _, bad := range []string{"old", name[2:], name + "00", strings.Repeat("z", 64)} {
		if r := transaction(bad, "", "ann").Mail; r.Code != 501 {
			t.Errorf("XBODY=%s: %v", bad, r)
		}
	}
}

// TestStranger shows that private parameters are refused where they are not
// offered, and that plain LMTP works.
func TestStranger(t *testing.T) {
	c := serve(t, mailboxtest.New(t), false)
	if _, ok := c.Extension("X-TT"); ok {
		t.Error("X-TT offered to a stranger")
	}
	if res := send(t, c, text, to("ann", "XKEY", strings.Repeat("0", 32))); res.Rcpts[0].Code != 555 {
		t.Errorf("XKEY of a stranger: %v", res.Rcpts[0])
	}
	res := send(t, c, text, to("ann"), to("bob"), to("cat"))
	for i, r := range res.Data {
		if r == nil || r.Code != 250 {
			t.Errorf("recipient %d: %v", i, r)
		}
	}
}

func TestNotServing(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	c := serve(t, boxes, true)
	log.SetAway(&mailbox.ErrNotServing{Leader: "pair1-b"})
	res := send(t, c, text, to("ann"))
	if r := res.Mail; r == nil || r.Code != 451 || !strings.Contains(r.Text, "leader=pair1-b") {
		t.Errorf("MAIL: %v", r)
	}
	log.SetAway(nil)
	if res := send(t, c, text, to("ann")); res.Data[0].Code != 250 {
		t.Errorf("serving again: %v", res.Data[0])
	}
}

func TestReply(t *testing.T) {
	var s Server
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"too much":  {fmt.Errorf("deliver: %w", mailbox.ErrBusy), "452 4.3.1 Too much in flight, try again"},
		"disk full": {fmt.Errorf("deliver: %w", mailbox.ErrNoRoom), "452 4.3.1 No room for mail, try again later"},
		"not known": {errors.New("anything"), "451 4.4.5 Not committed in time, outcome unknown"},
	} {
		r := s.reply(tt.err)
		if got := fmt.Sprintf("%d %v %s", r.Code, r.Status, r.Text); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// stuck never commits.
type stuck struct{}

func (stuck) Ready(context.Context) error { return nil }

func (stuck) Known(*mailbox.Delivery, mailbox.BodyName) *mailbox.Known { return nil }

func (stuck) Deliver(ctx context.Context, _ *mailbox.Delivery) ([]mailbox.DeliveryResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestNoQuorum(t *testing.T) {
	s, err := New(Config{Mailboxes: stuck{}, Hostname: "store.test", Commit: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ss := &session{srv: s, addrs: []mail.Address{{Local: "a"}}}
	ss.d.Recipients = make([]mailbox.DeliveryRecipient, 1)
	r := ss.Data(context.Background(), &smtp.Message{Bytes: []byte(text)})
	if r[0].Code != 451 || r[0].Status != mail.StatusNoQuorum {
		t.Errorf("%v", r[0])
	}
}

func BenchmarkDeliver(b *testing.B) {
	c := serve(b, mailboxtest.New(b), true)
	body := "Subject: hello\r\n\r\n" + strings.Repeat("0123456789abcdef0123456789abcde\r\n", 300)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		send(b, c, body, to("ann"))
	}
}

// TestWelcome: a new mailbox is told of with each delivery to its INBOX until it
// has the message whose key follows from it, and no other mailbox is.
func TestWelcome(t *testing.T) {
	boxes := mailboxtest.New(t)
	c := serve(t, boxes, true)
	reply := func(rcpt smtp.RcptArgs) string { return send(t, c, text, rcpt).Data[0].Text }
	hash := strings.Repeat("5a", 16)
	made := func(said string) (n int64) {
		t.Helper()
		i := strings.Index(said, " welcome=")
		if i < 0 {
			t.Fatalf("%q", said)
		}
		if _, err := fmt.Sscanf(said[i:], " welcome=%d", &n); err != nil || time.Since(time.Unix(n, 0)).Abs() > time.Minute {
			t.Fatalf("%q: %v", said, err)
		}
		return n
	}
	n := made(reply(to("ann", "XWELCOME", "1")))
	if said := reply(to("ann", "XWELCOME", "1", "XVACATION", hash+",9")); made(said) != n || !strings.HasSuffix(said, " vacation=reply") {
		t.Errorf("again, and away: %q", said)
	}
	for name, rcpt := range map[string]smtp.RcptArgs{
		"nobody asks":       to("ann"),
		"in another folder": to("ann", "XWELCOME", "1", "XFOLDER", "Junk"),
		"not stored":        to("ann", "XWELCOME", "1", "XVACATION", hash+",0,only"),
	} {
		if said := reply(rcpt); strings.Contains(said, "welcome=") {
			t.Errorf("%s: %q", name, said)
		}
	}
	if said := reply(to("bob", "XWELCOME", "1", "XQUOTA", "0,-1,1")); strings.Contains(said, "welcome=") {
		t.Errorf("refused: %q", said)
	}
	for range 2 {
		if res := send(t, c, "Subject: welcome\r\n\r\n", to("ann", "XKEY", mail.WelcomeKey("ANN@example.test", n).String())); res.Data[0].Code != 250 {
			t.Fatal(res.Data[0])
		}
	}
	if said := reply(to("ann", "XWELCOME", "1")); strings.Contains(said, "welcome=") {
		t.Errorf("after the welcome: %q", said)
	}
}
