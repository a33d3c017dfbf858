package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// helperEnv makes this test binary a node that only waits for signals.
const helperEnv = "DEV_TEST_HELPER"

func helper() {
	ch := make(chan os.Signal, 1)
	if os.Getenv(helperEnv) == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(ch, syscall.SIGTERM)
	}
	fmt.Println("helper runs")
	<-ch
	os.Exit(0)
}

// processOf supervises this test binary as a helper.
func processOf(t *testing.T, kind string, restart bool) (*process, *atomic.Int64) {
	t.Helper()
	t.Setenv(helperEnv, kind)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ends := new(atomic.Int64)
	p := &process{
		name: "n", bin: exe, dir: t.TempDir(), spawn: newSpawner(), restart: func() bool { return restart }, want: true,
		say: func(string, ...any) {}, changed: func() {}, ended: func(string, string) { ends.Add(1) },
	}
	p.init()
	done := make(chan struct{})
	go func() { defer close(done); p.run() }()
	t.Cleanup(func() {
		p.stop(context.Background(), 0)
		close(p.quit)
		<-done
		p.spawn.close()
	})
	if err := p.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, ends
}

func await(t *testing.T, p *process, cond func(pid int) bool) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	pid := 0
	if err := p.wait(ctx, func() (bool, error) {
		pid = 0
		if p.cmd != nil {
			pid = p.cmd.Process.Pid
		}
		return cond(pid), nil
	}); err != nil {
		t.Fatal("the process does not become what it should:", err)
	}
	return pid
}

func TestProcessRestarts(t *testing.T) {
	p, ends := processOf(t, "1", true)
	first := await(t, p, func(pid int) bool { return pid > 0 })
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, p, func(pid int) bool { return pid > 0 && pid != first })
	if ends.Load() != 1 {
		t.Errorf("%d ends reported, want 1", ends.Load())
	}
	if !p.stop(t.Context(), 20*time.Second) {
		t.Error("stop had to kill a process that obeys")
	}
	if pid := p.pid(); pid != 0 {
		t.Errorf("pid %d after stop", pid)
	}
	if ends.Load() != 1 {
		t.Error("a stop that was asked for was reported as an end")
	}
}

func TestProcessStaysDown(t *testing.T) {
	p, ends := processOf(t, "1", false)
	first := await(t, p, func(pid int) bool { return pid > 0 })
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, p, func(pid int) bool { return pid == 0 })
	if err := p.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pid := p.pid(); pid == 0 || pid == first {
		t.Errorf("pid %d after start", pid)
	}
	if ends.Load() != 1 {
		t.Errorf("%d ends reported, want 1", ends.Load())
	}
}

func TestProcessStubborn(t *testing.T) {
	p, _ := processOf(t, "stubborn", true)
	await(t, p, func(pid int) bool { return pid > 0 })
	for { // until it ignores the signal
		if b, _ := os.ReadFile(filepath.Join(p.dir, logName)); len(b) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if p.stop(t.Context(), 50*time.Millisecond) {
		t.Error("a process that ignores SIGTERM stopped by it")
	}
	if pid := p.pid(); pid != 0 {
		t.Errorf("pid %d after stop", pid)
	}
}

func TestProcessMissing(t *testing.T) {
	p := &process{
		name: "n", bin: filepath.Join(t.TempDir(), "nothing"), dir: t.TempDir(), spawn: newSpawner(), restart: func() bool { return false }, want: true,
		say: func(string, ...any) {}, changed: func() {}, ended: func(string, string) {},
	}
	p.init()
	done := make(chan struct{})
	go func() { defer close(done); p.run() }()
	if err := p.start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start of a program that does not exist: %v", err)
	}
	p.stop(t.Context(), 0)
	close(p.quit)
	<-done
	p.spawn.close()
}

// TestControl starts and stops a node over the control socket.
func TestControl(t *testing.T) {
	p, _ := processOf(t, "1", true)
	dir, err := os.MkdirTemp("", "ctl") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c := &cluster{
		o: options(nil), dir: dir, layout: &layout{Nodes: []*node{{Name: "n", Tier: relayTier}}},
		processes: map[string]*process{"n": p}, operator: make(chan struct{}, 1),
	}
	c.ctx, c.fail = context.WithCancelCause(t.Context())
	if err := c.control(); err != nil {
		t.Fatal(err)
	}
	defer c.services.Wait()
	defer c.fail(nil)
	cl := admin.NewUnixClient(ControlSocket(dir))
	defer cl.Close()
	first := await(t, p, func(pid int) bool { return pid > 0 })
	got, err := admin.Call(t.Context(), cl, StopNode, NodeRequest{Node: "n"})
	if err != nil || got.PID != 0 || p.pid() != 0 {
		t.Fatalf("stop: %+v, %v", got, err)
	}
	got, err = admin.Call(t.Context(), cl, StartNode, NodeRequest{Node: "n"})
	if err != nil || got.PID == 0 || got.PID == first {
		t.Fatalf("start: %+v, %v", got, err)
	}
	second := got.PID
	got, err = admin.Call(t.Context(), cl, RestartNode, NodeRequest{Node: "n", Kill: true})
	if err != nil || got.PID == 0 || got.PID == second {
		t.Fatalf("restart: %+v, %v", got, err)
	}
	all, err := admin.Call(t.Context(), cl, ListNodes, admin.None{})
	if err != nil || len(all.Nodes) != 1 || all.Nodes[0].PID != got.PID {
		t.Fatalf("list: %+v, %v", all, err)
	}
	if _, err := admin.Call(t.Context(), cl, StopNode, NodeRequest{Node: "other"}); !errors.Is(err, admin.ErrNotFound) {
		t.Errorf("a node that is none: %v", err)
	}
	c.operator <- struct{}{} // as at the end
	c.fail(nil)
	if _, err := admin.Call(t.Context(), cl, StartNode, NodeRequest{Node: "n"}); err == nil {
		t.Error("a node can be started while the cluster stops")
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(dir); err == nil {
		t.Error("two clusters run in one folder")
	}
	held.Close()
	held, err = lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	held.Close()
}

func TestPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if free(l.Addr().String()) {
		t.Error("a port that somebody listens on is free")
	}
	addrs, err := freeAddrs(50)
	if err != nil || len(addrs) != 50 {
		t.Fatalf("%v, %v", addrs, err)
	}
	for _, a := range addrs {
		if !free(a) {
			t.Errorf("%s is not free", a)
		}
	}
}
