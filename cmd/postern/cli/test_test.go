package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/admin"
)

// explaining is the folder of a cluster whose second relay answers explain.
func explaining(t *testing.T, answer func(admin.ExplainRequest) (admin.ExplainResult, error)) string {
	t.Helper()
	return answering(t, func(s *admin.Server) {
		admin.Handle(s, admin.Explain, func(_ context.Context, in admin.ExplainRequest) (admin.ExplainResult, error) { return answer(in) })
	})
}

// answering is the folder of a cluster whose first relay is away.
func answering(t *testing.T, handle func(s *admin.Server)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ex") // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	s := admin.NewServer(slog.New(slog.NewTextHandler(io.Discard, nil)))
	handle(s)
	path := filepath.Join(dir, "r2.sock")
	l, err := admin.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		<-done
		os.RemoveAll(dir)
	})
	file := clusterfile.File{Version: clusterfile.Version, Relays: []clusterfile.Relay{
		{Name: "relay1", Admin: filepath.Join(dir, "dead.sock")}, {Name: "relay2", Admin: path},
	}}
	if err := file.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAddress(t *testing.T) {
	var asked admin.ExplainRequest
	dir := explaining(t, func(in admin.ExplainRequest) (admin.ExplainResult, error) {
		asked = in
		if in.Address == "bad" {
			return admin.ExplainResult{}, fmt.Errorf("%w: address", admin.ErrBadRequest)
		}
		out := admin.ExplainResult{
			Input: in.Address, From: in.From, At: noon, Node: "relay2", Queries: 1, Took: time.Millisecond,
			Reply: admin.ExplainReply{Code: 250, Enhanced: "2.1.5", Text: "OK"},
			Steps: []admin.ExplainStep{
				{Text: "asked", Query: &admin.ExplainLookup{Question: "address", Subject: in.Address, Cache: "miss", Answer: "uid=ana,o=isp", Took: time.Millisecond, Searches: []admin.ExplainSearch{
					{Base: "o=isp", Scope: "sub", Filter: "(mail=evil\x1b[2J)", Entries: 1, Took: time.Millisecond},
				}}},
				{Depth: 1, Address: "ana@x.test", DN: "uid=ana,o=isp", Rule: "5/2", Attribute: "mailUserStatus", Text: "user, status active"},
			},
			Recipients: []admin.ExplainRecipient{{
				Address: "ana@x.test", Channel: "tcp_lmtpcs", Pair: "pair1", NextHop: "pair1", Mailbox: "ana@x.test", Folder: "work",
				Quota: 50 << 20, Messages: -2, MaxSize: 10 << 10, Via: []string{"team@x.test"},
			}},
		}
		if in.Address == "nobody@x.test" {
			out.Reply, out.Recipients = admin.ExplainReply{Code: 550, Enhanced: "5.1.1", Text: "No such user"}, []admin.ExplainRecipient{}
		}
		return out, nil
	})
	out := must(t, "test", "address", "team@x.test", "--dir", dir, "--from", "bob@y.test", "--auth", "bob", "--size", "5000", "--at", "2026-01-02 15:04", "--no-cache")
	want := admin.ExplainRequest{Address: "team@x.test", From: "bob@y.test", Auth: "bob", Size: 5000, NoCache: true, At: time.Date(2026, 1, 2, 15, 4, 0, 0, time.UTC)}
	if asked != want {
		t.Errorf("asked %+v", asked)
	}
	for _, part := range []string{"reply: 250 2.1.5 OK", "cache miss", "LDAP sub of", "rule 5/2", "mailUserStatus", "pair1", "work", "50M", "10K", "default", "team@x.test"} {
		if !strings.Contains(out, part) {
			t.Errorf("no %q in\n%s", part, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("an escape sequence reaches the terminal")
	}
	var got struct {
		Input string
		Reply struct {
			Code           int
			Enhanced, Text string
		}
		Recipients []struct {
			Address, Channel, Pair, Mailbox, Folder string
			Via                                     []string
		}
		Steps []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(must(t, "test", "address", "team@x.test", "--dir", dir, "-o", "json")), &got); err != nil {
		t.Fatal(err)
	}
	if got.Input != "team@x.test" || got.Reply.Code != 250 || got.Recipients[0].Folder != "work" || len(got.Recipients[0].Via) != 1 || len(got.Steps) != 2 {
		t.Errorf("%+v", got)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
		say    string
	}{
		"refused":  {[]string{"nobody@x.test", "--dir", dir}, ExitFailed, "550 5.1.1"},
		"bad":      {[]string{"bad", "--dir", dir}, ExitUsage, "address"},
		"time":     {[]string{"a@x.test", "--dir", dir, "--at", "noon"}, ExitUsage, "--at"},
		"relay":    {[]string{"a@x.test", "--dir", dir, "--relay", "relay9"}, ExitFailed, "no node"},
		"silent":   {[]string{"a@x.test", "--dir", dir, "--relay", "relay1"}, ExitUsage, "no node answers"},
		"no place": {[]string{"a@x.test"}, ExitUsage, "--dir"},
	} {
		_, errOut, status := call(t, append([]string{"test", "address"}, c.args...)...)
		if status != c.status || !strings.Contains(errOut, c.say) {
			t.Errorf("%s: status %d, %s", name, status, errOut)
		}
	}
}
