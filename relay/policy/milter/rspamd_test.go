package milter

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

// rspamdConfig needs no Redis and no network; its list of top domains is short,
// which else takes seconds to read.
const rspamdConfig = `
options {
	pidfile = "DIR/pid"; tempdir = "DIR"; cores_dir = "DIR"; control_socket = "DIR/control"; url_tld = "DIR/tld";
	filters = ""; enable_test_patterns = true;
	dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
}
logging { type = "console"; level = "error"; }
actions { reject = 15; add_header = 6; greylist = 4; rewrite_subject = 10; subject = "*** SPAM *** %s"; }
worker "rspamd_proxy" {
	bind_socket = "127.0.0.1:PORT"; milter = yes; count = 1; timeout = 10s;
	upstream "local" { default = yes; self_scan = yes; }
}
lua = "/usr/share/rspamd/rules/rspamd.lua";
modules { path = "/usr/share/rspamd/plugins/milter_headers.lua"; }
milter_headers { use = ["x-spamd-bar", "x-spam-level", "x-spam-status"]; skip_local = false; skip_authenticated = false; }
`

// TestRspamd asks a filter that is neither on libmilter nor like it: it wants all
// events, answers few, and has an own idea of what is offered.
func TestRspamd(t *testing.T) {
	program := peertest.Programs(t, "rspamd")[0]
	dir, port := t.TempDir(), freePort(t)
	writeFile(t, filepath.Join(dir, "tld"), "com\ntest\n")
	conf := writeFile(t, filepath.Join(dir, "conf"), strings.NewReplacer("DIR", dir, "PORT", port).Replace(rspamdConfig))
	run(t, port, program, "-f", "-i", "-c", conf)
	f := newFilter(t, Config{Address: "inet:127.0.0.1:" + port})
	const head = "From: Ann <ann@client.test>\r\nTo: Eva <eva@example.com>\r\nSubject: one\r\n two\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@client.test>\r\n"
	gtube := func(kind string) string {
		return head + "\r\n" + kind + "JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"
	}
	for name, tt := range map[string]struct {
		msg, verdict string
		fields       []string // that are added
		subject      string
	}{
		"ham":             {head + "\r\nbody\r\n", "", []string{"X-Spamd-Bar", "X-Spam-Level", "X-Spam-Status"}, "one two"},
		"reject":          {gtube("X"), "554 5.7.1 Gtube pattern", nil, ""},
		"add header":      {gtube("Y"), "", []string{"X-Spam"}, "one two"},
		"rewrite subject": {gtube("Z"), "", nil, "*** SPAM *** one two"},
	} {
		t.Run(name, func(t *testing.T) {
			v := judge(t, f, tt.msg)
			if tt.verdict != "" {
				if got := word(v); got != tt.verdict {
					t.Errorf("%s, want %s", got, tt.verdict)
				}
				return
			}
			for _, field := range tt.fields {
				if len(results(v.Message, field)) != 1 {
					t.Errorf("no %s", field)
				}
			}
			if got := results(v.Message, "Subject"); len(got) != 1 || got[0] != tt.subject {
				t.Errorf("subject %q, want %q", got, tt.subject)
			}
			_, body, _ := strings.Cut(tt.msg, "\r\n\r\n")
			if !strings.HasPrefix(string(v.Message), head[:strings.Index(head, "Subject")]) || !strings.HasSuffix(string(v.Message), "\r\n\r\n"+body) {
				t.Errorf("the rest is not what it was:\n%s", v.Message)
			}
			if t.Failed() {
				t.Logf("%s\n%s", word(v), v.Message)
			}
		})
	}
}
