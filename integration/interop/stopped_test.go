package interop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

// TestBackendsStopped stops every node of the only pair. Lists are expanded all
// the same, one that the client sees through and one that the channel reprocess
// changes, and their outside members receive; so does whoever only forwards.
// Members with a mailbox have each message once when the pair is back.
func TestBackendsStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	peertest.Programs(t, "postfix", "postconf")
	c := cluster.Start(t, "--users", "3", "--relays", "1", "--pairs", "1")
	info := c.Info()
	stays, moved, sender := info.Users[0], info.Users[1], info.Users[2]
	must := func(args ...string) {
		t.Helper()
		if out, err := c.Postern(args...); err != nil {
			t.Fatalf("postern %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	plain, owned := "plain@"+info.Domain, "owned@"+info.Domain
	must("directory", "user", "set", moved.Address, "--option", "forward", "--forward", "moved@outside.example")
	for _, list := range []string{plain, owned} {
		local, _, _ := strings.Cut(list, "@")
		must("directory", "group", "add", list, "--member", stays.Address, "--member", local+"@outside.example")
	}
	must("directory", "group", "set", owned, "--owner", sender.Address)

	boxes := t.TempDir()
	for _, d := range []string{filepath.Dir(boxes), boxes} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(boxes, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := net.SplitHostPort(cluster.FreeAddr(t))
	outside := []string{"plain", "owned", "moved"}
	var maps []string
	for _, name := range outside {
		maps = append(maps, fmt.Sprintf("{%s@outside.example = %s/}", name, name))
	}
	p := cluster.StartPostfix(t, cluster.PostfixConfig{
		Hostname: "mx.outside.example",
		Main: []string{
			"virtual_mailbox_domains = outside.example",
			"virtual_mailbox_base = " + boxes,
			"virtual_mailbox_maps = inline:{" + strings.Join(maps, ", ") + "}",
			fmt.Sprintf("virtual_uid_maps = static:%d", nobody),
			fmt.Sprintf("virtual_gid_maps = static:%d", nobody),
			"smtpd_recipient_restrictions = permit_mynetworks, reject",
		},
		Master: []string{"127.0.0.5:" + port + " inet n - n - - smtpd"},
	})
	edge := startEdge(t, c, openCA(t, c), port, resolver(t, "outside.example. MX 10 mx.outside.example.", "mx.outside.example. A 127.0.0.5"))

	pair := info.Pairs[0]
	for _, n := range pair.Nodes {
		must("node", "stop", "--kill", n.Name)
	}
	for _, to := range []string{plain, owned, moved.Address} {
		authenticate(t, edge, sender).transaction(sender.Address, note("while they are away, to "+to), to)
	}
	for _, name := range outside {
		p.AwaitLog(t, `postfix/virtual\[.*to=<`+regexp.QuoteMeta(name)+`@outside\.example>.*status=sent`, 1, time.Minute)
	}

	for _, n := range pair.Nodes {
		must("node", "start", n.Name)
	}
	c.AwaitServing(pair.Name, time.Minute)
	await(t, c, stays, "while they are away, to "+plain, 1)
	await(t, c, stays, "while they are away, to "+owned, 1)
	if got := inbox(t, c, stays); len(got) != 2 {
		t.Errorf("%d messages for %s, want 2", len(got), stays.Login)
	}
	for _, name := range outside {
		if n := len(maildir(t, filepath.Join(boxes, name))); n != 1 {
			t.Errorf("%d copies for %s@outside.example, want 1", n, name)
		}
	}
	if got := inbox(t, c, sender); len(got) != 0 {
		t.Errorf("the sender was told:\n%s", got[0])
	}
}
