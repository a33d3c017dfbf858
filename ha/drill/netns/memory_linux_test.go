package netns

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

// TestMemory has the kernel end a process that wants more memory than it may have,
// and count it.
func TestMemory(t *testing.T) {
	peertest.Root(t, "control groups")
	m, err := findMemory()
	if err != nil {
		peertest.Lacks(t, "%v", err)
	}
	lab := &Lab{o: Options{Memory: true}, l: &layout{relays: []string{"relay1"}}, f: &fabric{id: newID()[:idLength]}}
	if err := lab.makeGroups(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "read line; tail /dev/zero") // which keeps all of it, looking for a line
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := m.groupOf(lab.f, "relay1")
	err = put(dir, cmd.Process.Pid)
	if err == nil {
		err = lab.limitMemory(t.Context(), "relay1")
	}
	if err != nil {
		t.Fatal(err, cmd.Process.Kill(), cmd.Wait())
	}
	if saw, err := lab.seeMemory("relay1"); err == nil {
		t.Errorf("before it wants memory: %s", saw)
	}
	in.Write([]byte("\n"))
	_ = cmd.Wait() // the kernel ends the shell or what it runs
	if _, err := lab.seeMemory("relay1"); err != nil {
		t.Errorf("%v; %s", err, &said)
	}
	if err := lab.freeMemory("relay1"); err != nil {
		t.Error(err)
	}
	removed, err := lab.f.removeGroups()
	if err != nil || len(removed) != 1 || removed[0] != dir {
		t.Errorf("removed %v, %v", removed, err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
}

func TestNumber(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.events")
	if err := os.WriteFile(file, []byte("low 0\noom 7\noom_kill 3\nbad x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := number(file, "oom_kill"); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	for _, key := range []string{"oom_", "bad", "kill"} {
		if n, err := number(file, key); err == nil {
			t.Errorf("%s: %d", key, n)
		}
	}
	if _, err := number(file+"x", "oom"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}
