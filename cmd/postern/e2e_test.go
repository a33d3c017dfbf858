package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
)

// programs builds every program and returns the folder.
func programs(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	cmd := exec.Command("go", "build", "-o", bin+"/", "../...")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// cluster is a running `postern dev`.
type cluster struct {
	t    *testing.T
	bin  string
	dir  string
	out  bytes.Buffer
	cmd  *exec.Cmd
	done chan error
}

// devDir is a folder for a cluster, with a name that is short enough for sockets.
func devDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t *testing.T, bin, dir string, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, bin: bin, dir: dir, done: make(chan error, 1)}
	_ = os.Remove(filepath.Join(dir, clusterfile.Name)) // one that was killed leaves it
	c.cmd = exec.Command(filepath.Join(bin, "postern"), append([]string{"dev", "--dir", dir}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.cmd.Wait() }()
	began := time.Now()
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, clusterfile.Name)); err == nil {
			t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
			return c
		}
		select {
		case err := <-c.done:
			t.Fatalf("postern dev ended: %v\n%s", err, c.out.String())
		default:
		}
	}
	t.Fatal("postern dev is not ready")
	return nil
}

func (c *cluster) info() *clusterfile.File {
	c.t.Helper()
	f, err := clusterfile.Read(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// stop ends the cluster by sig and checks that none of its processes is left.
func (c *cluster) stop(sig os.Signal, want string) {
	c.t.Helper()
	f, began := c.info(), time.Now()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	select {
	case err := <-c.done:
		if got := fmt.Sprint(err); got != want {
			c.t.Errorf("postern dev ended with %s, want %s\n%s", got, want, c.out.String())
		}
	case <-time.After(30 * time.Second):
		c.t.Fatal("postern dev does not end")
	}
	c.t.Logf("ended after %v", time.Since(began).Round(time.Millisecond))
	pids := []int{}
	for _, r := range f.Relays {
		pids = append(pids, r.PID)
	}
	for _, p := range f.Pairs {
		for _, n := range p.Nodes {
			pids = append(pids, n.PID)
		}
	}
	for _, pid := range pids {
		for end := time.Now().Add(5 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				c.t.Fatalf("process %d is left", pid)
			}
		}
	}
}

// alive reports whether pid runs; one that has ended and was not waited for by
// whoever inherited it does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return err != nil || !bytes.HasPrefix(rest, []byte("Z"))
}

func (c *cluster) postern(args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(c.bin, "postern"), append(args, "--dir", c.dir)...).Output()
	if err != nil {
		c.t.Fatalf("postern %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// dialog speaks with a server line by line: each word of the script is sent
// and then an answer line with the prefix awaited.
func dialog(t *testing.T, conn net.Conn, script ...[2]string) (all string) {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	for _, s := range script {
		if s[0] != "" {
			fmt.Fprintf(conn, "%s\r\n", s[0])
		}
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("after %q, waiting for %q: %v\n%s", s[0], s[1], err, all)
			}
			all += line
			if strings.HasPrefix(line, s[1]) {
				break
			}
			if strings.HasPrefix(line, "-ERR") || len(line) > 3 && line[3] == ' ' && (line[0] == '4' || line[0] == '5') {
				t.Fatalf("after %q: %s", s[0], line)
			}
		}
	}
	return all
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// dialTLS connects with the CA of the cluster as only trust.
func dialTLS(t *testing.T, addr, ca string) net.Conn {
	t.Helper()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// configuration asks a relay for its options, and what another file would change.
func configuration(t *testing.T, c *cluster) {
	t.Helper()
	file := filepath.Join(c.dir, "relay1", "relay1.yaml")
	if got := c.postern("config", "show", "relay1", "--given"); !strings.Contains(got, file+":") || strings.Contains(got, "outbound.port") {
		t.Errorf("config show:\n%s", got)
	}
	if got := c.postern("config", "diff", file, "relay1"); got != "no differences\n" {
		t.Errorf("config diff with its own file:\n%s", got)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(t.TempDir(), "next.yaml")
	if err := os.WriteFile(next, append(text, "outbound: {port: 2525}\njournal: {dir: other}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	got := c.postern("config", "diff", next, "relay1")
	if !strings.Contains(got, "outbound.port") || !strings.Contains(got, "1 of 2 need a restart") {
		t.Errorf("config diff:\n%s", got)
	}
}

// TestDev runs a cluster of the real programs: mail goes in by SMTP and comes
// out by IMAP and POP3, also after the serving replica was killed and after the
// whole cluster was killed; and nothing is left when it ends.
func TestDev(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: builds and runs every program")
	}
	bin, dir := programs(t), devDir(t)
	c := start(t, bin, dir, "--users", "2")
	f := c.info()
	u := f.Users[0]
	deliver := func(subject string) {
		t.Helper()
		dialog(t, dial(t, f.Relays[0].SMTP), [][2]string{
			{"", "220 "},
			{"EHLO client.test", "250 "},
			{"MAIL FROM:<ann@client.test>", "250 "},
			{"RCPT TO:<" + u.Address + ">", "250 "},
			{"DATA", "354 "},
			{"Subject: " + subject + "\r\n\r\nhello\r\n.", "250 "},
			{"QUIT", "221 "},
		}...)
	}
	deliver("first")
	imap := func(conn net.Conn) string {
		t.Helper()
		return dialog(t, conn, [][2]string{
			{"", "* OK"},
			{"a LOGIN " + u.Login + " " + u.Password, "a OK"},
			{"b SELECT INBOX", "b OK"},
			{"c FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]", "c OK"},
			{"d LOGOUT", "d OK"},
		}...)
	}
	if got := imap(dialTLS(t, f.Relays[1].IMAPS, f.CA)); !strings.Contains(got, "Subject: first") {
		t.Errorf("IMAP:\n%s", got)
	}
	got := dialog(t, dial(t, f.Relays[1].POP3), [][2]string{
		{"", "+OK"}, {"USER " + u.Login, "+OK"}, {"PASS " + u.Password, "+OK"}, {"RETR 1", ".\r\n"}, {"QUIT", "+OK"},
	}...)
	if !strings.Contains(got, "Subject: first") {
		t.Errorf("POP3:\n%s", got)
	}
	if got := c.postern("trace", u.Address); !strings.Contains(got, "accepted") || !strings.Contains(got, "stored") {
		t.Errorf("trace:\n%s", got)
	}

	configuration(t, c)

	var status struct{ Pairs []struct{ Serving string } }
	if err := json.Unmarshal([]byte(c.postern("status", "--output", "json")), &status); err != nil {
		t.Fatal(err)
	}
	c.postern("node", "stop", "--kill", status.Pairs[0].Serving)
	deliver("second") // queued when nobody serves yet
	c.postern("node", "start", status.Pairs[0].Serving)
	want := func(subjects ...string) {
		t.Helper()
		var got string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			got = imap(dial(t, f.Relays[0].IMAP))
			if strings.Count(got, "Subject: ") >= len(subjects) {
				break
			}
		}
		for _, s := range subjects {
			if strings.Count(got, "Subject: "+s) != 1 {
				t.Errorf("%s is not there once:\n%s", s, got)
			}
		}
	}
	c.stop(syscall.SIGTERM, "<nil>")

	c = start(t, bin, dir)
	if again := c.info(); again.Relays[0].SMTP != f.Relays[0].SMTP {
		t.Errorf("relay1 moved from %s to %s", f.Relays[0].SMTP, again.Relays[0].SMTP)
	}
	want("first", "second")
	c.stop(syscall.SIGKILL, "signal: killed")
	c = start(t, bin, dir, "--quiet")
	want("first", "second")
	c.stop(syscall.SIGINT, "<nil>")
	if c.out.Len() > 0 {
		t.Errorf("--quiet printed %s", c.out.String())
	}
}
