package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/peertest"
)

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// oneMore: a node begins to run, and no other one is started again.
func oneMore(said string) error {
	said = colours.ReplaceAllString(said, "")
	for _, p := range []struct {
		what string
		want int
	}{{"Apply complete!", 1}, {".terraform_data.process will be created", 1}, {".terraform_data.process must be replaced", 0}} {
		if n := strings.Count(said, p.what); n != p.want {
			return fmt.Errorf("it says %q %d times, want %d", p.what, n, p.want)
		}
	}
	return nil
}

// TestReadmeOneMachine types the first part of deploy/README.md, every line of it, on a
// bare machine. Go with its modules, Terraform and what is to be cloned are the test's
// to bring along, and the answers to what Terraform asks.
func TestReadmeOneMachine(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("what it comes to is tested by integration/terraform: POSTERN_NIGHTLY=1")
	}
	terraform, err := exec.LookPath("terraform")
	if err != nil {
		peertest.Lacks(t, "terraform is not installed")
	}
	const one = "## One machine"
	g := &guide{site: newSite(t), own: true}
	g.routes = true
	root := booting(t)
	goRoot, modules := strings.TrimSpace(output(t, "go", "env", "GOROOT")), strings.TrimSpace(output(t, "go", "env", "GOMODCACHE"))
	output(t, "cp", "-a", goRoot, filepath.Join(root, "usr/local/go"))
	output(t, "cp", terraform, filepath.Join(root, "usr/local/bin/terraform"))
	output(t, "sh", "-ec", `mkdir -p "$1/root/go/pkg"; cp -a "$0" "$1/root/go/pkg/mod"; git clone -q --bare ../.. "$1/root/source"`, modules, root)
	put(t, root, "root/.gitconfig", "[safe]\n\tdirectory = *\n[url \"/root/source\"]\n\tinsteadOf = https://github.com/postern-mail/postern\n")
	g.operators = g.boot("fresh", "192.0.2.50", root)
	g.operators.login(t)

	const apply, destroy, yes = "terraform -chdir=terraform/examples/local apply", "terraform -chdir=terraform/examples/local destroy", "yes\n"
	g.looks = []*look{
		{begins: apply + " -var", answer: yes, at: oneMore},
		{begins: apply, answer: yes, at: has("Apply complete!")},
		{begins: "postern status ", again: true, at: func(said string) error {
			if n := strings.Count(said, " ready "); n != 5 {
				return fmt.Errorf("%d nodes are ready, want 5", n)
			}
			return nil
		}},
		{begins: "$outside swaks ", at: has("<-  250 ")},
		{begins: "$outside curl ", at: has("Subject: hello")},
		{begins: "postern trace ", at: has("u0001@postern.test", "delivered")},
		{begins: "postern probe ", at: has(" 0 not as the matrix says")},
		{begins: "$mgmt ", at: has("3 passed, 0 failed")},
		{begins: "terraform -chdir=terraform/examples/local plan", at: has("No changes.")},
		{begins: destroy, answer: yes, at: has("Destroy complete!")},
	}
	g.follow(readme, steps(t, readme, one))
	g.looked()
	if said, err := g.operators.run(`[ -z "$(ip netns list)" ] && [ ! -e /var/lib/postern-local ] && ! pgrep postern-`); err != nil {
		t.Errorf("something is left: %s %v", said, err)
	}
}
