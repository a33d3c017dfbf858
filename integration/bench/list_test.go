package bench

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

const listSize = 64 << 10

// patience is how long a list of n may take.
func patience(n int) time.Duration { return time.Minute + time.Duration(n)*20*time.Millisecond }

// everyone is a tree with a list of all its users, by their names.
func everyone(n int) []byte {
	tree := bytes.NewBuffer(fixture.Tree(domain, n, 1))
	base := fixture.Base(domain)
	fmt.Fprintf(tree, `dn: cn=everyone,ou=groups,%s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: everyone
mail: everyone@%s
inetMailGroupStatus: active
`, base, domain)
	for i := range n {
		fmt.Fprintf(tree, "uniqueMember: uid=%s,ou=people,%s\n", fixture.UID(i+1), base)
	}
	tree.WriteByte('\n')
	return tree.Bytes()
}

// TestList: one message to a list of users who have no mailbox yet, all on one
// pair.
func TestList(t *testing.T) {
	n := *members
	slapd := cluster.StartSlapd(t, everyone(n))
	tab := newTable()
	head(tab)
	t.Cleanup(func() { t.Log(tab) })
	listPostern(t, slapd, n, tab)
	if !*alone {
		listPostfix(t, slapd, n, tab)
	}
}

func listPostern(t *testing.T, slapd *cluster.OpenLDAP, n int, tab *table) {
	c, sys := postern(t, slapd)
	before := slapd.Searches(t)
	sys.begin(t)
	start := time.Now()
	answered := post(t, c.Info().Relays[0].SMTP, n)
	stored := func() (sum int) {
		for _, node := range c.Info().Pairs[0].Nodes {
			if node.Role == "data" {
				sum += figure(t, node.Metrics, "postern_lmtp_deliveries_total", `class="2"`)
			}
		}
		return sum
	}
	for got := 0; got < n; got = stored() {
		if time.Since(start) > patience(n) {
			t.Fatalf("%d of %d stored after %v", got, n, time.Since(start))
		}
		time.Sleep(50 * time.Millisecond)
	}
	took := time.Since(start)
	sys.end(tab, "list", took, n)
	if got := stored(); got != n {
		t.Errorf("%d recipients answered, want %d", got, n)
	}
	searches := slapd.Searches(t) - before - 1
	t.Logf("Postern: answered after %v, the last of %d stored after %v; %d searches", answered, n, took, searches)
	eachOnce(t, c, n)
	c.Stop()
	for _, data := range c.Info().Pairs[0].Nodes {
		copies, octets := bodies(t, data.Dir)
		t.Logf("Postern: %s (%s) has the message %d times in a log of %d octets, %d a member", data.Name, data.Role, copies, octets, octets/int64(n))
		if copies != 1 {
			t.Errorf("%s has the message %d times", data.Name, copies)
		}
	}
}

func listPostfix(t *testing.T, slapd *cluster.OpenLDAP, n int, tab *table) {
	d := cluster.StartDovecot(t)
	p := postfix(t, slapd, d.Addr)
	peer := &system{name: "Postfix, Dovecot", parts: []part{{"relay", []int{p.PID()}}, {"store", []int{d.PID}}, {"directory", []int{slapd.PID}}}}
	log := sent(t, p)
	before := slapd.Searches(t)
	peer.begin(t)
	start := time.Now()
	answered := post(t, p.Addr, n)
	log.await(t, n, patience(n))
	took := time.Since(start)
	peer.end(tab, "list", took, n)
	t.Logf("Postfix, Dovecot: answered after %v, the last of %d stored after %v; %d searches", answered, n, took, slapd.Searches(t)-before-1)
	boxes, files, octets := maildirs(t, filepath.Join(d.Dir, "mail"))
	t.Logf("Dovecot: %d messages in %d mailboxes, %d octets, %d a member", files, boxes, octets, octets/int64(n))
	if boxes != n || files != n {
		t.Errorf("Dovecot has %d messages in %d mailboxes, want %d", files, boxes, n)
	}
}

// bodyMark is the end of the header and the beginning of the text of the one
// message that is sent: it stands once in each copy and nowhere else.
var bodyMark = func() []byte {
	m := cluster.Message("x", "x", 300)
	at := bytes.Index(m, []byte("\r\n\r\n"))
	return m[at : at+40]
}()

// post sends the message to the list and returns the time until the answer.
func post(t *testing.T, addr string, n int) time.Duration {
	t.Helper()
	l := cluster.NewLedger()
	start := time.Now()
	cluster.Load{
		Senders: 1, Addrs: func() []string { return []string{addr} }, Recipients: []string{"everyone@" + domain},
		Size: listSize, Messages: 1, Timeout: patience(n),
	}.Run(l, nil)
	if ok, _, _ := l.Counts(); ok != 1 {
		t.Fatalf("not accepted: %+v", l.Entries())
	}
	return time.Since(start)
}

// eachOnce asks every member's mailbox how many messages it has, of whichever
// replica serves: on a busy machine that may change.
func eachOnce(t *testing.T, c *cluster.Cluster, n int) {
	t.Helper()
	imap := map[string]string{}
	for _, node := range c.Info().Pairs[0].Nodes {
		imap[node.Name] = node.IMAP
	}
	var addr atomic.Value
	addr.Store(imap[c.AwaitServing("pair1", time.Minute)])
	var wg sync.WaitGroup
	var next, wrong atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > n {
					return
				}
				user, from := fixture.UID(i)+"@"+domain, net.IPv4(127, 0, 0, byte(2+w))
				got, err := messages(addr.Load().(string), user, from)
				for again := 0; err != nil && again < 60; again++ {
					time.Sleep(500 * time.Millisecond)
					if serving := imap[c.Serving("pair1")]; serving != "" {
						addr.Store(serving)
					}
					got, err = messages(addr.Load().(string), user, from)
				}
				if err != nil || got != 1 {
					if wrong.Add(1) < 10 {
						t.Errorf("%s has %d messages, %v", fixture.UID(i), got, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if k := wrong.Load(); k > 0 {
		t.Errorf("%d of %d members have not exactly one message", k, n)
	}
}

func messages(addr, user string, from net.IP) (uint32, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 10 * time.Second}
	conn, err := d.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	cl := imapclient.New(conn, nil)
	defer cl.Close()
	if err := cl.Login(user, fixture.Password).Wait(); err != nil {
		return 0, err
	}
	s, err := cl.Status("INBOX", &imap.StatusOptions{NumMessages: true}).Wait()
	if err != nil || s.NumMessages == nil {
		return 0, err
	}
	return *s.NumMessages, nil
}

// bodies counts how often a replica has the message in its log, and how long
// the log is without the room that is kept ahead.
func bodies(t *testing.T, dir string) (copies int, octets int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".seg") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copies += bytes.Count(data, bodyMark)
		octets += int64(len(bytes.TrimRight(data, "\x00")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return copies, octets
}

// maildirs counts mailboxes and messages, and the octets on disk, those of a
// file with several names once.
func maildirs(t *testing.T, dir string) (boxes, files int, octets int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch parent := filepath.Base(filepath.Dir(path)); {
		case e.IsDir() && e.Name() == "Maildir":
			boxes++
		case !e.IsDir() && (parent == "new" || parent == "cur"):
			files++
			octets += share(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return boxes, files, octets
}

// share is what one name of a file takes on disk: its blocks by the number of
// names.
func share(path string) int64 {
	var s syscall.Stat_t
	if syscall.Stat(path, &s) != nil || s.Nlink == 0 {
		return 0
	}
	return s.Blocks * 512 / int64(s.Nlink)
}
