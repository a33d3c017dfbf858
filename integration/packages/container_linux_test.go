package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/peertest"
)

// docker is a container runtime of the test's own, in a network of its own.
type docker struct {
	t   *testing.T
	cmd *exec.Cmd
	dir string
	log string
}

// newDocker starts one where it can change neither the host's network nor its
// mounts.
func newDocker(t *testing.T) *docker {
	need(t, "docker", "dockerd", "docker-compose", "unshare", "nsenter", "ip", "swaks", "curl")
	r := &docker{t: t, dir: t.TempDir()}
	r.log = filepath.Join(r.dir, "log")
	log, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r.cmd = exec.Command("unshare", "--net", "--mount", "sh", "-c", `ip link set lo up && exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/sock"`, "sh", r.dir)
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.stop)
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(r.dir, "sock"))
	t.Setenv("CONTAINER", "docker")
	if err := r.until(30*time.Second, func() error { _, err := try("docker", "version"); return err }); err != nil {
		said, _ := os.ReadFile(r.log)
		peertest.Lacks(t, "no container runtime runs here: %v\n%s", err, said)
	}
	return r
}

func (r *docker) stop() {
	r.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { defer close(done); r.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		r.t.Errorf("the container runtime does not end")
		syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		<-done
	}
}

// until tries f until it succeeds.
func (r *docker) until(limit time.Duration, f func() error) error {
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		err := f()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// host runs a program where the published ports are.
func (r *docker) host(name string, args ...string) (string, error) {
	return try("nsenter", append([]string{"-t", fmt.Sprint(r.cmd.Process.Pid), "-n", name}, args...)...)
}

// TestContainers builds the images, runs the compose file as its README says, and
// sends mail while a replica is killed.
func TestContainers(t *testing.T) {
	r := newDocker(t)
	kit, state := "../../deploy/container", filepath.Join(r.dir, "state")
	compose := func(args ...string) (string, error) {
		return try("docker-compose", append([]string{"--project-directory", kit, "--file", filepath.Join(kit, "compose.yaml")}, args...)...)
	}
	for k, v := range map[string]string{"COMPOSE_PROJECT_NAME": "postern", "STATE": state, "TAG": "test", "BIND": "127.0.0.1"} {
		t.Setenv(k, v)
	}
	for _, image := range strings.Fields(output(t, filepath.Join(kit, "build"), "test")) {
		if !strings.HasPrefix(image, "postern") { // what the builder says besides
			continue
		}
		if user := strings.TrimSpace(output(t, "docker", "image", "inspect", "--format", "{{.Config.User}}", image)); user != "65532:65532" {
			t.Errorf("%s runs as %q", image, user)
		}
		if out, err := try("docker", "run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", "true"); err == nil {
			t.Errorf("%s has a shell: %s", image, out)
		}
	}
	for range 2 { // what exists is kept
		output(t, filepath.Join(kit, "prepare"), "relay1.example.com")
	}
	if out, err := compose("up", "-d"); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := compose("logs", "--no-color", "--tail", "60")
			t.Log(out)
		}
		if out, err := compose("down", "--timeout", "20"); err != nil {
			t.Error(out, err)
		}
	})

	password := "secret-1"
	directory := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command("docker", append([]string{
			"run", "--rm", "-i", "--network", "none", "--user", "0:0", "-v", state + "/relay1:/s", "postern:test", "directory",
			"--url", "ldapi://%2Fs%2Fldapi", "--base", "o=isp", "--bind-dn", "cn=admin,o=isp", "--bind-password-file", "/s/directory.password", "--audit", "none",
		}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatal(string(out), err)
		}
	}
	ready := func() error { _, err := r.host("curl", "-sSf", "http://127.0.0.1:9154/readyz"); return err }
	if err := r.until(time.Minute, ready); err != nil {
		t.Fatal(err)
	}
	directory("", "domain", "add", "example.com", "--mail-host", "pair1")
	directory(password+"\n", "user", "add", "ana@example.com", "--name", "Ana Silva", "--password-stdin")

	send := func(subject string) error {
		_, err := r.host("swaks", "--server", "127.0.0.1", "--to", "ana@example.com", "--from", "you@example.net", "--header", "Subject: "+subject, "--silent", "2")
		return err
	}
	if err := r.until(20*time.Second, func() error { return send("first") }); err != nil {
		t.Fatal(err)
	}
	killed := ""
	for _, replica := range []string{"pair1-a", "pair1-b"} {
		if log, err := compose("logs", "--no-color", replica); err == nil && strings.Contains(log, `"serving":true`) {
			killed = replica
		}
	}
	if killed == "" {
		t.Fatal("no replica says that it serves")
	}
	if out, err := compose("kill", killed); err != nil {
		t.Fatal(out, err)
	}
	if err := r.until(30*time.Second, func() error { return send("second") }); err != nil {
		t.Fatalf("with %s killed: %v", killed, err)
	}
	for i, subject := range []string{"first", "second"} {
		url := fmt.Sprintf("imaps://127.0.0.1/INBOX;MAILINDEX=%d", i+1)
		text, err := r.host("curl", "-sSk", "--user", "ana@example.com:"+password, url)
		if err != nil || !strings.Contains(text, "Subject: "+subject) {
			t.Errorf("message %d: %v\n%s", i+1, err, text)
		}
	}
}
