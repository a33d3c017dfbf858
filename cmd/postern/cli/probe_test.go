package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/probe"
	"github.com/postern-mail/postern/shared/peertest"
)

func TestPortList(t *testing.T) {
	for in, want := range map[string][]int{"": nil, "5": {5}, "1-3,9": {1, 2, 3, 9}, "65535": {65535}} {
		if got, err := portList(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"0", "65536", "3-1", "-", "1,", "x", "1-2-3", "1-65535,1-65535,1-65535"} {
		if got, err := portList(in); err == nil {
			t.Errorf("%q: %d ports", in, len(got))
		}
	}
}

func FuzzPortList(f *testing.F) {
	f.Add("1-1024,5432")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := portList(s)
		for _, p := range list {
			if p < 1 || p > 65535 || err != nil {
				t.Fatal(p, err)
			}
		}
	})
}

// TestProbe: the network of a test is this machine, on which one port of the matrix
// is open. What is closed here answers with a reset.
func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	matrix := func(smtp int) string {
		name := filepath.Join(t.TempDir(), "matrix.json")
		text := fmt.Sprintf(`{"version": 1, "cluster": "c", "inside": ["127.0.0.0/8"], "groups": {"management": ["127.0.0.9"]},
			"nodes": [{"name": "r", "tier": "relay", "address": "127.0.0.1", "services": {"smtp": [%d]}}],
			"rules": [{"id": "mx", "from": "management", "to": "relay", "protocols": ["tcp"], "services": ["smtp"]}]}`, smtp)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, port := range []int{1, 22, 23, 53, 80, 111, 389, 443, 636, 2049, 4190, 6060, 8080, 9090, 9100} {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			peertest.Lacks(t, "something listens at port %d of this machine, which is not closed then", port)
		}
	}
	good := matrix(l.Addr().(*net.TCPAddr).Port)
	wrong := matrix(1)
	for name, tt := range map[string]struct {
		args   string
		status int
		want   string // in what is said
	}{
		"as the matrix says":     {"--from management --resets --matrix " + good, ExitOK, ""},
		"resets":                 {"--from management --matrix " + good, ExitFailed, "not as the matrix says"},
		"nobody listens":         {"--from management --resets --matrix " + wrong, ExitFailed, "1 ports are not"},
		"no place":               {"--matrix " + good, ExitUsage, "management, r"},
		"an unknown place":       {"--from moon --matrix " + good, ExitUsage, "moon"},
		"two places":             {"--from r,management --matrix " + good, ExitUsage, "one place"},
		"no file":                {"--from r --matrix /nowhere/x", ExitUsage, "nowhere"},
		"ports":                  {"--from r --ports 0 --matrix " + good, ExitUsage, "--ports"},
		"parallel":               {"--from r --parallel 0 --matrix " + good, ExitUsage, "--parallel"},
		"no way there":           {"--enter false --matrix " + good, ExitUsage, "from management"},
		"the way brings nothing": {"--enter true --matrix " + good, ExitUsage, "report"},
	} {
		var out, said bytes.Buffer
		args := append([]string{"probe", "-o", "json"}, strings.Fields(tt.args)...)
		if status := run(t.Context(), args, nil, &out, &said); status != tt.status || !strings.Contains(said.String(), tt.want) {
			t.Errorf("%s: status %d, %s", name, status, said.String())
		}
		if tt.status == ExitUsage {
			continue
		}
		r := new(probe.Report)
		if err := json.Unmarshal(out.Bytes(), r); err != nil || len(r.Probes) < 10 || (len(r.Findings) > 0) != (tt.status == ExitFailed) {
			t.Errorf("%s: %v, %d probes, %v", name, err, len(r.Probes), r.Findings)
		}
	}
}
