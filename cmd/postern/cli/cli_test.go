package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/admin"
)

var update = flag.Bool("update", false, "rewrite the manual page")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call runs the program and returns what it printed and its status.
func call(t *testing.T, args ...string) (out, errOut string, status int) {
	t.Helper()
	var o, e bytes.Buffer
	status = run(t.Context(), args, strings.NewReader(""), &o, &e)
	return o.String(), e.String(), status
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errOut, status := call(t, args...)
	if status != ExitOK {
		t.Fatalf("postern %s: status %d\n%s", strings.Join(args, " "), status, errOut)
	}
	return out
}

// fake is a cluster of two relays and a pair whose witness is dead; it answers
// from memory.
type fake struct {
	dir     string
	serving string
	queue   map[string]map[string]bool // relay, id
	drained map[string]bool
}

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbb"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{dir: dir, serving: "pair1-a", drained: map[string]bool{}, queue: map[string]map[string]bool{
		"relay1": {idA: true}, "relay2": {idB: true, strings.Repeat("c", 26): true},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 8)
	served := 0
	file := clusterfile.File{Version: 1, Domain: "postern.test", Pairs: []clusterfile.Pair{{Name: "pair1"}}}
	start := func(name string, handle func(s *admin.Server)) string {
		path := filepath.Join(dir, name+".sock")
		s := admin.NewServer(slog.New(slog.NewTextHandler(io.Discard, nil)))
		admin.Handle(s, admin.GetStatus, func(context.Context, admin.None) (admin.NodeStatus, error) { return f.status(name), nil })
		admin.Handle(s, admin.Drain, func(_ context.Context, in admin.DrainRequest) (admin.None, error) {
			f.drained[name] = in.On
			if f.serving == name {
				f.serving = map[string]string{"pair1-a": "pair1-b", "pair1-b": "pair1-a"}[name]
			}
			return admin.None{}, nil
		})
		handle(s)
		l, err := admin.ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		served++
		go func() { done <- s.Serve(ctx, l) }()
		return path
	}
	for _, r := range []string{"relay1", "relay2"} {
		file.Relays = append(file.Relays, clusterfile.Relay{Name: r, Admin: start(r, func(s *admin.Server) { f.relay(s, r) })})
	}
	for _, n := range []string{"pair1-a", "pair1-b"} {
		file.Pairs[0].Nodes = append(file.Pairs[0].Nodes, clusterfile.Node{Name: n, Role: clusterfile.RoleData, Admin: start(n, func(s *admin.Server) { f.backend(s, n) })})
	}
	file.Pairs[0].Nodes = append(file.Pairs[0].Nodes, clusterfile.Node{Name: "pair1-w", Role: clusterfile.RoleWitness, Admin: filepath.Join(dir, "w.sock")})
	if err := file.Write(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range served {
			<-done
		}
		os.RemoveAll(dir)
	})
	return f
}

func (f *fake) group(name string) admin.GroupStatus {
	g := admin.GroupStatus{Pair: "pair1", Node: name, State: "Follower", Leader: f.serving, Term: 7, First: 1, Last: 90, Commit: 90, Applied: 90}
	if name == f.serving {
		g.Serving, g.State = true, "Leader"
	}
	return g
}

func (f *fake) status(name string) admin.NodeStatus {
	s := admin.NodeStatus{Name: name, Role: "relay", State: "ready", Version: "1.2.3", PID: 42, Started: noon}
	if strings.HasPrefix(name, "pair") {
		s.Role, s.Groups = "backend", []admin.GroupStatus{f.group(name)}
	} else {
		s.Queue = &admin.QueueStatus{Queued: len(f.queue[name]), Bytes: 2048}
	}
	return s
}

func (f *fake) relay(s *admin.Server, name string) {
	have := func(id string) error {
		if !f.queue[name][id] {
			return fmt.Errorf("%w: %s", admin.ErrNotFound, id)
		}
		return nil
	}
	message := func(id string) admin.QueueMessage {
		return admin.QueueMessage{
			ID: id, State: "deferred", ReversePath: "evil\x1b[2J@x.test", Size: 2048, Arrival: noon, Attempts: 3,
			Recipients: []admin.QueueRecipient{{Address: "u@far.test", Channel: "tcp_local", State: "waiting", Reply: "450 4.2.0 later"}},
		}
	}
	admin.Handle(s, admin.QueueList, func(_ context.Context, in admin.QueueQuery) (out admin.QueueListing, err error) {
		for id := range f.queue[name] { // one a page, in order
			if id > in.After && (len(out.Messages) == 0 || id < out.Messages[0].ID) {
				out.Messages = []admin.QueueMessage{message(id)}
			}
		}
		for id := range f.queue[name] {
			out.More = out.More || len(out.Messages) > 0 && id > out.Messages[0].ID
		}
		return out, nil
	})
	admin.Handle(s, admin.QueueShow, func(_ context.Context, in admin.QueueID) (admin.QueueMessage, error) {
		return message(in.ID), have(in.ID)
	})
	admin.Handle(s, admin.QueueDelete, func(_ context.Context, in admin.QueueID) (admin.None, error) {
		err := have(in.ID)
		delete(f.queue[name], in.ID)
		return admin.None{}, err
	})
	admin.Handle(s, admin.QueueHold, func(_ context.Context, in admin.QueueID) (admin.None, error) { return admin.None{}, have(in.ID) })
	admin.Handle(s, admin.Trace, func(_ context.Context, in admin.TraceRequest) (admin.TraceResult, error) {
		if name != "relay1" || in.Address != "u@far.test" && in.ID != idA {
			return admin.TraceResult{}, nil
		}
		return admin.TraceResult{Events: []admin.TraceEvent{
			{Time: noon, Node: name, Event: "accepted", ID: idA, Fields: map[string]string{"trace_id": idA, "size": "5"}},
			{Time: noon.Add(2 * time.Second), Node: name, Event: "delivered", ID: idA, Fields: map[string]string{"reply": "250 ok", "recipient": "u@far.test"}},
		}}, nil
	})
}

func (f *fake) backend(s *admin.Server, name string) {
	admin.Handle(s, admin.PairStatus, func(context.Context, admin.PairName) (admin.GroupStatus, error) { return f.group(name), nil })
	admin.Handle(s, admin.PairDigest, func(context.Context, admin.PairName) (admin.Digest, error) {
		return admin.Digest{Pair: "pair1", Node: name, Applied: 88, Digest: "0123456789abcdef"}, nil
	})
	admin.Handle(s, admin.PairTransfer, func(_ context.Context, in admin.TransferRequest) (admin.GroupStatus, error) {
		if in.To == "pair1-w" {
			return admin.GroupStatus{}, fmt.Errorf("%w: pair1-w is a witness", admin.ErrConflict)
		}
		f.serving = "pair1-b"
		return f.group(name), nil
	})
	admin.Handle(s, admin.Trace, func(_ context.Context, in admin.TraceRequest) (admin.TraceResult, error) {
		if name != "pair1-a" || in.ID != idA { // it knows the message by its trace id only
			return admin.TraceResult{}, nil
		}
		return admin.TraceResult{Events: []admin.TraceEvent{{Time: noon.Add(time.Second), Node: name, Event: "stored", ID: idA}}}, nil
	})
	admin.Handle(s, admin.MailboxList, func(context.Context, admin.MailboxQuery) (admin.MailboxListing, error) {
		return admin.MailboxListing{Accounts: []string{"u@postern.test"}}, nil
	})
	admin.Handle(s, admin.MailboxShow, func(_ context.Context, in admin.MailboxQuery) (d admin.MailboxDetail, err error) {
		if in.Account != "u@postern.test" {
			return d, fmt.Errorf("%w: no account", admin.ErrNotFound)
		}
		return admin.MailboxDetail{Account: in.Account, Pair: "pair1", UsedBytes: 3 << 20, LimitBytes: -1, LimitMsgs: 10, Mailboxes: []admin.Mailbox{{Name: "INBOX", Messages: 4}}}, nil
	})
}

// answer runs a command with --output json and decodes what it prints.
func answer[T any](t *testing.T, args ...string) (v T) {
	t.Helper()
	out := must(t, append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return v
}

func TestStatus(t *testing.T) {
	f := newFake(t)
	s := answer[struct {
		Nodes  []struct{ Name, Role, Pair, State, Version string }
		Pairs  []struct{ Name, Serving string }
		Queues []struct {
			Relay  string
			Queued int
		}
	}](t, "status", "--dir", f.dir)
	if len(s.Nodes) != 5 || s.Nodes[2].Pair != "pair1" || s.Nodes[2].Version != "1.2.3" || s.Nodes[4].State != "unreachable" || s.Nodes[4].Role != "witness" {
		t.Errorf("nodes %+v", s.Nodes)
	}
	if len(s.Pairs) != 1 || s.Pairs[0].Serving != "pair1-a" || len(s.Queues) != 2 || s.Queues[1].Queued != 2 {
		t.Errorf("pairs %+v, queues %+v", s.Pairs, s.Queues)
	}
	out := must(t, "status", "--dir", f.dir)
	for _, want := range []string{"pair1-w  witness  pair1  unreachable", "pair1  pair1-a     7       90  pair1-a", "relay2           2"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if _, _, status := call(t, "status", "--check", "--dir", f.dir); status != ExitFailed {
		t.Errorf("--check with a dead witness: status %d", status)
	}
}

func TestPair(t *testing.T) {
	f := newFake(t)
	pairs := answer[[]struct {
		Name  string
		Nodes []struct {
			Name, Role, State, Digest string
			Applied                   uint64
		}
	}](t, "pair", "status", "pair1", "--dir", f.dir)
	if len(pairs) != 1 || len(pairs[0].Nodes) != 3 {
		t.Fatalf("%+v", pairs)
	}
	if n := pairs[0].Nodes; n[0].State != "leader" || n[1].Applied != 88 || n[1].Digest == "" || n[1].Role != "data" || n[2].State != "down" || n[2].Role != "witness" {
		t.Errorf("%+v", n)
	}
	if out := must(t, "pair", "transfer", "pair1", "--dir", f.dir); out != "pair1-b serves pair1\n" {
		t.Errorf("transfer: %q", out)
	}
	if _, errOut, status := call(t, "pair", "transfer", "pair1", "--to", "pair1-w", "--dir", f.dir); status != ExitFailed || !strings.Contains(errOut, "witness") {
		t.Errorf("transfer to the witness: status %d, %s", status, errOut)
	}
	must(t, "pair", "drain", "pair1-b", "--dir", f.dir)
	if f.serving != "pair1-a" || !f.drained["pair1-b"] {
		t.Errorf("after drain %s serves, drained %v", f.serving, f.drained)
	}
	must(t, "node", "drain", "relay1", "--off", "--dir", f.dir)
	if on, was := f.drained["relay1"]; on || !was {
		t.Errorf("drained %v", f.drained)
	}
	must(t, "node", "drain", "relay1", "--dir", f.dir)
	if !f.drained["relay1"] {
		t.Errorf("drained %v after node drain", f.drained)
	}
	must(t, "node", "undrain", "relay1", "--dir", f.dir)
	if on, was := f.drained["relay1"]; on || !was {
		t.Errorf("drained %v after node undrain", f.drained)
	}
	if _, _, status := call(t, "pair", "status", "pair9", "--dir", f.dir); status != ExitFailed {
		t.Errorf("a pair that is none: status %d", status)
	}
}

func TestQueue(t *testing.T) {
	f := newFake(t)
	if msgs := answer[[]struct{ Relay, ID string }](t, "queue", "list", "--dir", f.dir); len(msgs) != 3 {
		t.Errorf("%+v", msgs)
	}
	out := must(t, "queue", "show", idB, "--dir", f.dir)
	if !strings.Contains(out, "relay2") || !strings.Contains(out, "450 4.2.0 later") || strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	if _, _, status := call(t, "queue", "show", "nothing", "--dir", f.dir); status != ExitFailed {
		t.Errorf("a message that is none: status %d", status)
	}
	if out := must(t, "queue", "hold", idA, idB, "--dir", f.dir); out != "2 messages held\n" {
		t.Errorf("%q", out)
	}
	if _, _, status := call(t, "queue", "hold", idA, "nothing", "--dir", f.dir); status != ExitFailed {
		t.Errorf("one of two: status %d", status)
	}
	if _, _, status := call(t, "queue", "delete", "--all", "--dir", f.dir); status != ExitUsage || len(f.queue["relay2"]) != 2 {
		t.Errorf("delete --all without --yes: status %d", status)
	}
	must(t, "queue", "delete", "--all", "--yes", "--relay", "relay2", "--dir", f.dir)
	if len(f.queue["relay2"]) != 0 || len(f.queue["relay1"]) != 1 {
		t.Errorf("%v left", f.queue)
	}
}

func TestTrace(t *testing.T) {
	f := newFake(t)
	got := answer[struct{ Events []admin.TraceEvent }](t, "trace", "u@far.test", "--dir", f.dir)
	var steps []string
	for _, e := range got.Events {
		steps = append(steps, e.Node+" "+e.Event)
	}
	if want := "relay1 accepted, pair1-a stored, relay1 delivered"; strings.Join(steps, ", ") != want {
		t.Errorf("%s, want %s", strings.Join(steps, ", "), want)
	}
	if out := must(t, "trace", idA, "--dir", f.dir); !strings.Contains(out, `recipient=u@far.test reply="250 ok"`) || strings.Contains(out, "trace_id") {
		t.Errorf("%s", out)
	}
	if _, errOut, status := call(t, "trace", "nobody@x.test", "--dir", f.dir); status != ExitFailed || !strings.Contains(errOut, "nothing is known") {
		t.Errorf("status %d, %s", status, errOut)
	}
}

func TestMailbox(t *testing.T) {
	f := newFake(t)
	if out := must(t, "mailbox", "list", "--dir", f.dir); !strings.Contains(out, "u@postern.test  pair1") {
		t.Errorf("%s", out)
	}
	if out := must(t, "mailbox", "show", "u@postern.test", "--dir", f.dir); !strings.Contains(out, "3.0M of unlimited, 0 of 10 messages") {
		t.Errorf("%s", out)
	}
	if _, _, status := call(t, "mailbox", "show", "x@postern.test", "--dir", f.dir); status != ExitFailed {
		t.Errorf("status %d", status)
	}
}

func TestPKI(t *testing.T) {
	dir := t.TempDir()
	ca, node := filepath.Join(dir, "ca"), filepath.Join(dir, "n", "node")
	must(t, "pki", "init", "--cluster", "example", "--ca-dir", ca)
	if _, _, status := call(t, "pki", "init", "--cluster", "example", "--ca-dir", ca); status != ExitFailed {
		t.Errorf("a second CA in one folder: status %d", status)
	}
	must(t, "pki", "issue", "relay1", "--role", "relay-mx,relay-proxy", "--ca-dir", ca, "--out", node)
	show := func() certificate { return answer[[]certificate](t, "pki", "show", node+".pem")[0] }
	first := show()
	if first.Name != "relay1" || first.Cluster != "example" || len(first.Roles) != 2 {
		t.Errorf("%+v", first)
	}
	must(t, "pki", "renew", "--within", "24h", node+".pem", "--ca-dir", ca)
	if show().Fingerprint != first.Fingerprint {
		t.Error("a certificate with a year to go was renewed")
	}
	must(t, "pki", "renew", node+".pem", "--ca-dir", ca)
	if second := show(); second.Fingerprint == first.Fingerprint || second.Name != "relay1" {
		t.Errorf("renewed: %+v", second)
	}
	must(t, "pki", "issue", "mail", "--public", "--dns", "mail.example.com", "--ip", "192.0.2.1", "--ca-dir", ca, "--out", filepath.Join(dir, "public"))
	for _, args := range [][]string{
		{"issue", "x", "--role", "king", "--ca-dir", ca, "--out", node + "2"},
		{"renew", filepath.Join(dir, "missing.pem"), "--ca-dir", ca},
		{"show", filepath.Join(dir, "missing.pem")},
	} {
		if _, _, status := call(t, append([]string{"pki"}, args...)...); status != ExitFailed {
			t.Errorf("pki %v: status %d", args, status)
		}
	}
}

func TestUsage(t *testing.T) {
	empty := t.TempDir()
	for _, args := range [][]string{
		{"bogus"},
		{"queue"},
		{"status"},
		{"status", "--bogus"},
		{"status", "--output", "xml", "--dir", empty},
		{"status", "--dir", empty},
		{"status", "--dir", empty, "--node", "h:1"},
		{"status", "--node", "h:1"},
		{"status", "--dir", empty, "--timeout", "0s"},
		{"trace"},
		{"queue", "list", "--state", "odd", "--dir", empty},
		{"queue", "retry", "--dir", empty},
		{"node", "start", "x"},
		{"node", "start", "x", "--dir", empty},
		{"pki", "issue", "x", "--ca-dir", empty},
		{"pki", "issue", "x", "--role", "admin", "--ca-dir", empty},
		{"pki", "init"},
		{"dev", "--relays", "0"},
		{"dev", "--ldif", "a", "--directory", "b"},
		{"config", "check", "/nonexistent", "--role", "relay"},
	} {
		if _, errOut, status := call(t, args...); status != ExitUsage || errOut == "" {
			t.Errorf("postern %s: status %d, want %d: %s", strings.Join(args, " "), status, ExitUsage, errOut)
		}
	}
}

func TestSmall(t *testing.T) {
	if out := must(t, "version"); !strings.HasPrefix(out, "postern ") {
		t.Errorf("%q", out)
	}
	a, b := must(t, "gossip", "key", "new"), must(t, "gossip", "key", "new")
	if len(a) != 45 || a == b {
		t.Errorf("keys %q and %q", a, b)
	}
	if out := must(t, "config", "reference"); !strings.Contains(out, "`smtp.max_size`") {
		t.Error("no smtp.max_size in the reference")
	}
	if all := answer[[]option](t, "config", "reference"); len(all) < 50 {
		t.Errorf("%d options", len(all))
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("node: x\nclutser: y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, status := call(t, "config", "check", bad, "--role", "witness"); status != ExitFailed || !strings.Contains(errOut, `bad.yaml:2: unknown option "clutser"`) {
		t.Errorf("status %d: %s", status, errOut)
	}
	configFiles(t)
	if out := must(t, "completion", "bash"); !strings.Contains(out, "postern") {
		t.Error("no completion")
	}
	pages := filepath.Join(t.TempDir(), "man")
	must(t, "docs", pages)
	if page, err := os.ReadFile(filepath.Join(pages, "postern-pair-transfer.1")); err != nil || !bytes.Contains(page, []byte("hand over")) {
		t.Errorf("manual page: %v", err)
	}
}

// configFiles shows a file and compares it with another one.
func configFiles(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.yaml"), filepath.Join(dir, "two.yaml")
	const text = "node: w\ncluster: east\ndir: /srv/w\nraft: {listen: \"h:1\"}\ngroups: [{pair: p, members: [{node: w, id: aa, addr: \"h:1\"}]}]\n"
	for file, more := range map[string]string{one: "", two: "retain: {max_log: 5GB}\nlog: {level: warn}\nmetrics: {listen: \"h:2\"}\n"} {
		if err := os.WriteFile(file, []byte(text+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("POSTERN_RETAIN_MAX_LOG", "7GB")
	shown := must(t, "config", "show", "--role", "witness", two, "--given")
	for _, want := range []string{two + ":7", "environment POSTERN_RETAIN_MAX_LOG", "7GB", "groups[0].members[0].id"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not in\n%s", want, shown)
		}
	}
	if strings.Contains(shown, "gc_percent") {
		t.Errorf("--given shows a default:\n%s", shown)
	}
	if all := answer[[]map[string]any](t, "config", "show", "--role", "witness", one); len(all) < 20 {
		t.Errorf("%d options", len(all))
	}
	diff := answer[[]difference](t, "config", "diff", "--role", "witness", one, two)
	if len(diff) != 3 || diff[0].New != "h:2" || diff[0].Takes != "restart" || diff[1].Name != "log.level" || diff[1].Takes != "reload" || diff[2].New != "5GB" || diff[2].Takes != "reload" {
		t.Errorf("%+v", diff)
	}
	if _, _, status := call(t, "config", "diff", "--role", "witness", one, two, "--exit-code"); status != ExitFailed {
		t.Errorf("status %d", status)
	}
	if out := must(t, "config", "diff", "--role", "witness", one, one, "--exit-code"); out != "no differences\n" {
		t.Errorf("%q", out)
	}
	for _, args := range [][]string{{"show", one}, {"show", "--role", "queen", one}, {"diff", one, "--role", "witness"}, {"diff", one, "w", "--dir", dir, "--role", "relay"}} {
		if _, _, status := call(t, append([]string{"config"}, args...)...); status != ExitUsage {
			t.Errorf("config %v: status %d", args, status)
		}
	}
}

// TestManual holds the manual page beside the program together with it.
func TestManual(t *testing.T) {
	const file = "../postern.1.md"
	got := must(t, "docs", "--manual")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("postern.1.md is not what the program says (%v): go test ./cmd/postern/cli -run TestManual -update", err)
	}
}
