package site

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill"
)

const good = `
title: mail.example.com
server_name: imap.example.com
nodes:
  - {name: relay1, role: relay, smtp: "192.0.2.1:25", imaps: "192.0.2.1:993", admin_socket: relay1.sock}
  - {name: pair1-a, role: data, pair: pair1, admin_socket: a.sock}
  - {name: pair1-w, role: witness, pair: pair1, admin_socket: w.sock}
users:
  - {login: drill1, password: secret, address: drill1@example.com, pair: pair1}
allow: [transfer, stop, start]
hooks:
  stop: echo "stops $DRILL_NODE"
  start: echo "$DRILL_ACTION $DRILL_NODE" >&2; exit 3
  kill: touch "$MARK"
  see-cut: echo "no packet from $DRILL_PEERS"
`

func open1(t *testing.T, text string) (*Site, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(name)
}

func TestOpen(t *testing.T) {
	s, err := open1(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if s.Title() != "mail.example.com" || len(s.Nodes()) != 3 || s.Nodes()[0].SMTP != "192.0.2.1:25" || s.TLS().ServerName != "imap.example.com" {
		t.Errorf("%s %+v", s.Title(), s.Nodes())
	}
	if u := s.Users(); len(u) != 1 || u[0] != (drill.User{Login: "drill1", Password: "secret", Address: "drill1@example.com", Pair: "pair1"}) {
		t.Errorf("%+v", u)
	}
}

func TestRefused(t *testing.T) {
	edit := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "the file is empty"},
		{"unknown key", edit("title:", "titel:"), "field titel not found"},
		{"no role", edit("role: data, ", ""), `node 2 (pair1-a): role "": want relay, data or witness`},
		{"twice", edit("pair1-w", "pair1-a"), "node 3 (pair1-a): named twice"},
		{"relay without IMAP", edit(`imaps: "192.0.2.1:993", `, ""), "node 1 (relay1): a relay needs smtp and imaps"},
		{"no port", edit("192.0.2.1:25", "192.0.2.1"), "missing port in address"},
		{"no admin", edit(", admin_socket: a.sock", ""), "node 2 (pair1-a): give admin or admin_socket"},
		{"admin port without certificate", edit("admin_socket: a.sock", `admin: "192.0.2.2:7443"`), "admin: cert, key and ca are needed"},
		{"replica without pair", edit("role: data, pair: pair1", "role: data"), "node 2 (pair1-a): a replica needs pair"},
		{"two passwords", edit("password: secret", "password: secret, password_file: x"), "user 1 (drill1): give password or password_file"},
		{"no address", edit("drill1@example.com", "drill1"), `user 1 (drill1): address "drill1" has no @`},
		{"no such action", edit("allow: [transfer", "allow: [explode"), `allow: no action "explode"`},
		{"no command", edit("allow: [transfer", "allow: [pause"), "allow: pause needs a command in hooks"},
		{"hook of nothing", edit("see-cut:", "see-fire:"), `hooks: no action "see-fire"`},
		{"negative time", good + "hook_timeout: -1s\n", "hook_timeout -1s: want more than 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := open1(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// TestAllowed: what the file does not allow is not done, whatever hooks it has.
func TestAllowed(t *testing.T) {
	s, err := open1(t, good)
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "mark")
	t.Setenv("MARK", mark)
	if err := s.Do(t.Context(), drill.Action{Kind: drill.Kill, Node: "pair1-a"}); err == nil || err.Error() != "the file does not allow kill" {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the hook ran")
	}
	for k, ok := range map[drill.Kind]bool{drill.Transfer: true, drill.Stop: true, drill.Drain: false, drill.Cut: false} {
		if got := s.Can(k) == nil; got != ok {
			t.Errorf("can %s: %v", k, got)
		}
	}
}

func TestHooks(t *testing.T) {
	s, err := open1(t, strings.Replace(good, "allow: [", "allow: [kill, ", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Do(t.Context(), drill.Action{Kind: drill.Stop, Node: "pair1-a"}); err != nil {
		t.Error(err)
	}
	err = s.Do(t.Context(), drill.Action{Kind: drill.Start, Node: "pair1-a"})
	if want := "hook start of pair1-a: exit status 3: start pair1-a"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	saw, err := s.Real(t.Context(), drill.Action{Kind: drill.Cut, Node: "pair1-a", Peers: []string{"x", "y"}})
	if err != nil || saw != "no packet from x y" {
		t.Errorf("%q, %v", saw, err)
	}
	if _, err := s.Real(t.Context(), drill.Action{Kind: drill.FillDisk, Node: "pair1-a"}); err == nil {
		t.Error("a full disk is seen without a hook")
	}
}

// TestMoveUsers: the hook gets addresses on its standard input, and what it prints
// is what became of them.
func TestMoveUsers(t *testing.T) {
	allowed := strings.Replace(good, "allow: [", "allow: [move-users, ", 1)
	hook := `  move-users: 'echo users >&2; while read a; do printf "%s{\"address\": \"$a\", \"account\": \"$DRILL_UNTOLD\", \"to\": \"$DRILL_PAIR\", \"closed\": 7000000, \"state\": \"failed\"}" "${c:-[}"; c=,; done; echo "]"; exit 1'` + "\n"
	s, err := open1(t, allowed+hook)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.MoveUsers(t.Context(), []string{"a@x", "b@x"}, "pair2", "relay1")
	want := []drill.UserMove{
		{Address: "a@x", Account: "relay1", To: "pair2", Closed: 7 * time.Millisecond, State: "failed"},
		{Address: "b@x", Account: "relay1", To: "pair2", Closed: 7 * time.Millisecond, State: "failed"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if s, err = open1(t, allowed+"  move-users: echo no directory >&2; exit 2\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MoveUsers(t.Context(), []string{"a@x"}, "pair2", ""); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("%v", err)
	}
	if s, err = open1(t, good+hook); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MoveUsers(t.Context(), []string{"a@x"}, "pair2", ""); err == nil || err.Error() != "the file does not allow move-users" {
		t.Errorf("%v", err)
	}
}

// TestHookEnds: a hook that takes too long is ended with its children.
func TestHookEnds(t *testing.T) {
	s, err := open1(t, strings.Replace(good, "stop: echo", "stop: sleep 60; echo", 1)+"hook_timeout: 200ms\n")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = s.Do(t.Context(), drill.Action{Kind: drill.Stop, Node: "pair1-a"})
	if err == nil || !strings.Contains(err.Error(), "not done within 200ms") || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("nodes: [{name: a, role: relay, smtp: ':', imaps: '::', admin: x}]\nusers: [{}]\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		file, err := parse(in)
		if err == nil && (len(file.Nodes) == 0 || len(file.Users) == 0) {
			t.Errorf("taken without nodes or users: %q", in)
		}
	})
}
