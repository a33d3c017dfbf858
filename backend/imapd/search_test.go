package imapd

import (
	"strings"
	"testing"
)

func TestSearch(t *testing.T) {
	c := start(t, nil).withMessages()
	c.do("SELECT INBOX")
	c.do(`STORE 2 +FLAGS (\Flagged \Answered $Work)`)
	for key, want := range map[string]string{
		"ALL": "1 2 3",
		"1:2": "1 2", "2:*": "2 3", "4:9": "", "*": "3", "UID 2:9": "2 3", "UID 9:*": "3", "1,3": "1 3",
		"ANSWERED": "2", "UNANSWERED": "1 3", "FLAGGED": "2", "UNFLAGGED": "1 3", "SEEN": "1", "UNSEEN": "2 3",
		"DELETED": "", "UNDELETED": "1 2 3", "DRAFT": "", "UNDRAFT": "1 2 3",
		"RECENT": "", "NEW": "", "OLD": "1 2 3",
		"KEYWORD $work": "2", "UNKEYWORD $Work": "1 3", "KEYWORD none": "", "UNKEYWORD none": "1 2 3",
		"LARGER 500": "2", "SMALLER 500": "1 3", "LARGER 176": "2 3", "SMALLER 176": "",
		"FROM ann": "1", "FROM ann@EXAMPLE.net": "1", `FROM "bob b. <bob"`: "2", `FROM "jörg"`: "3", "FROM example": "1 2 3",
		"TO eva": "1 2", "TO ann": "2", "CC carl": "2", "BCC x": "",
		"SUBJECT first": "1", `SUBJECT "grüsse"`: "", `SUBJECT "GRÜßE"`: "3", `SUBJECT ""`: "1 2 3",
		`HEADER subject ""`: "1 2 3", `HEADER In-Reply-To ""`: "2", `HEADER Message-ID <2@`: "2", "HEADER X-None a": "",
		`HEADER Subject "grüße"`: "3",
		"BODY world":             "1", `BODY "First part"`: "2", `BODY "grüße"`: "3", `BODY "inner html"`: "2", "BODY inside": "2",
		"BODY AAECA": "", "BODY preamble": "", "BODY First": "2",
		"TEXT First": "1 2", "TEXT example.org": "2", `TEXT "Subject: Inside"`: "2", "TEXT nothing-has-this": "",
		"SENTON 2-Nov-2026": "1", "SENTON 3-Nov-2026": "2", "SENTBEFORE 3-Nov-2026": "1", "SENTSINCE \"3-Nov-2026\"": "2",
		"SENTSINCE 1-Jan-1970": "1 2", "BEFORE 1-Jan-2020": "", "SINCE 1-Jan-2020": "1 2 3", "ON 1-Jan-2020": "",
		"NOT SEEN": "2 3", "NOT (SEEN)": "2 3", "OR SEEN FLAGGED": "1 2", "OR (SEEN FROM ann) (SUBJECT {7+}\r\ngrüße)": "1 3",
		"OR NOT SEEN NOT FLAGGED": "1 2 3", "UNSEEN NOT FLAGGED": "3", "(1:2 (UNSEEN))": "2", "TEXT e BODY world SEEN": "1",
		`CHARSET UTF-8 BODY "grüße"`: "3", "CHARSET us-ascii BODY world": "1", "CHARSET \"utf-8\" ALL": "1 2 3",
		"BODY {7+}\r\ngrüße": "3", "SUBJECT {5}\r\nFirst": "1",
		"MODSEQ 1 2": "2",
	} {
		var got string
		if head, tail, ok := strings.Cut(key, "{5}\r\n"); ok { // the server is asked first
			c.send("x SEARCH " + head + "{5}\r\n")
			if line := c.line(); line != "+ OK" {
				t.Fatal(line)
			}
			c.send(tail + "\r\n")
			got = c.line()
			c.line()
		} else {
			lines := c.do("SEARCH " + key)
			got = lines[len(lines)-1] // behind what enabling CONDSTORE says
		}
		got, _, _ = strings.Cut(got, " (MODSEQ")
		if want = strings.TrimSpace("* SEARCH " + want); got != want {
			t.Errorf("%s: got %q, want %q", key, got, want)
		}
	}
	for _, key := range []string{
		"", "NOSUCHKEY", "FROM", "NOT", "OR SEEN", "()", "(SEEN", "SEEN)", "LARGER x", "SINCE yesterday", "SINCE 31-Feb-2020",
		"CHARSET UTF-8", "CHARSET US-ASCII BODY grüße", "RETURN (NONE) ALL", "RETURN ALL", "UID", "0", "BODY \"\xff\"",
		strings.Repeat("NOT ", 60) + "ALL", strings.Repeat("(", 60) + "ALL" + strings.Repeat(")", 60),
		strings.Repeat("BODY a ", 65) + "ALL", "MODSEQ x", "EMAILID", "OLDER 0", "YOUNGER -1",
	} {
		if got := c.ask("SEARCH " + key); !strings.HasPrefix(got[0], "BAD") {
			t.Errorf("%q: %q", key, got)
		}
		c.do("NOOP")
	}
}

// TestMatchName compares matchName with a plain recursive matcher.
func TestMatchName(t *testing.T) {
	for name, tt := range map[string]struct {
		name, pattern string
		want          bool
	}{
		"inbox":         {"INBOX", "inBox", true},
		"inbox pattern": {"INBOX", "in*", true},
		"inbox child":   {"INBOX/a", "inbox/%", true},
		"only inbox":    {"INBOXES", "inboxes", false},
		"child's case":  {"INBOX/a", "inbox/A", false},
		"percent":       {"a/b", "%", false},
		"two levels":    {"a/b", "%/%", true},
	} {
		if got := matchName(tt.name, tt.pattern); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	letters := []string{"a", "b", "/", "*", "%"}
	var words func(n int, from []string) []string
	words = func(n int, from []string) []string {
		if n == 0 {
			return []string{""}
		}
		var out []string
		for _, w := range words(n-1, from) {
			for _, l := range from {
				out = append(out, w+l)
			}
		}
		return out
	}
	names := append(words(4, letters[:3]), words(3, letters[:3])...)
	for _, pattern := range append(words(4, letters), words(3, letters)...) {
		for _, name := range names {
			if got, want := matchName(name, pattern), plainMatch(name, pattern); got != want {
				t.Fatalf("%q, %q: %v", name, pattern, got)
			}
		}
	}
}

func plainMatch(name, pattern string) bool {
	if pattern == "" {
		return name == ""
	}
	if c := pattern[0]; c == '*' || c == '%' {
		for i := 0; ; i++ {
			if plainMatch(name[i:], pattern[1:]) {
				return true
			}
			if i == len(name) || c == '%' && name[i] == '/' {
				return false
			}
		}
	}
	return name != "" && name[0] == pattern[0] && plainMatch(name[1:], pattern[1:])
}
