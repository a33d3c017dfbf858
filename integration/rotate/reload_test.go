package rotate

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/postern-mail/postern/integration/cluster"
)

// edit changes one option in a node's file; nil removes it.
func edit(t *testing.T, c *cluster.Cluster, node, section, option string, value any) {
	t.Helper()
	file := filepath.Join(c.Dir, node, node+".yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := yaml.Unmarshal(text, &conf); err != nil {
		t.Fatal(err)
	}
	in, ok := conf[section].(map[string]any)
	if !ok {
		in = map[string]any{}
		conf[section] = in
	}
	if in[option] = value; value == nil {
		delete(in, option)
	}
	if len(in) == 0 {
		delete(conf, section)
	}
	if text, err = yaml.Marshal(conf); err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// client is a session of SMTP that goes on.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func greeted(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	s := &client{t, c, bufio.NewReader(c)}
	s.reply()
	return s
}

func (s *client) reply() (lines string) {
	s.t.Helper()
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("the session: %v after %q", err, lines)
		}
		if lines += line; len(line) > 3 && line[3] == ' ' {
			return lines
		}
	}
}

func (s *client) say(line string) string {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.c, "%s\r\n", line); err != nil {
		s.t.Fatal(err)
	}
	return s.reply()
}

// TestReload: limits, the directory's servers and what a relay tells of itself
// change while it runs and mail goes on. A session goes on with what it began with,
// the next one has the new; one wrong line, and nothing changes. A relay whose
// directory is away is named by the DNS responders no more, and again when it is
// back.
func TestReload(t *testing.T) {
	c := cluster.Start(t, "--relays", "3", "--pairs", "1", "--users", "6", "--responder")
	b := begin(t, c, 40)
	b.ready(30 * time.Second)
	relays := c.Info().Relays
	const all, allNames = "[127.0.0.11 127.0.0.12 127.0.0.13]", "relay1 relay2 relay3"
	awaitNamed(t, relays, all, allNames)

	old := greeted(t, relays[0].SMTP)
	size := func(s *client) string {
		_, rest, _ := strings.Cut(s.say("EHLO client.example"), "250-SIZE ")
		rest, _, _ = strings.Cut(rest, "\r\n")
		return rest
	}
	first := size(old)
	edit(t, c, "relay1", "smtp", "max_size", "3MB")
	edit(t, c, "relay1", "expand", "texts", []string{"no such text=x"})
	if out, err := c.Postern("reload", "relay1"); err == nil {
		t.Errorf("a wrong option is taken: %s", out)
	}
	if now := size(greeted(t, relays[0].SMTP)); now != first {
		t.Errorf("a reload that was refused changed SIZE from %s to %s", first, now)
	}
	edit(t, c, "relay1", "expand", "texts", nil)
	b.must("reload", "relay1")
	if now := size(greeted(t, relays[0].SMTP)); now != "3145728" {
		t.Errorf("SIZE %s after the reload", now)
	}
	if now := size(old); now != first {
		t.Errorf("the session that was open has SIZE %s, it began with %s", now, first)
	}
	b.flows(40)

	// What it takes from the directory waits while it is away, and what it has in
	// memory is in the new one's memory too.
	url := c.Info().Directory.URL
	edit(t, c, "relay2", "directory", "urls", []string{"ldap://127.0.0.1:1"})
	b.must("reload", "relay2")
	awaitNamed(t, relays, "[127.0.0.11 127.0.0.13]", "relay1 relay3")
	edit(t, c, "relay2", "directory", "urls", []string{url})
	b.must("reload", "relay2")
	awaitNamed(t, relays, all, allNames)
	edit(t, c, "relay3", "public", "addresses", []string{"127.0.0.13", "::1"})
	b.must("reload", "relay3")
	awaitNamed(t, relays, "[127.0.0.11 127.0.0.12 127.0.0.13 ::1]", allNames)
	b.flows(40)
	b.end()
}
