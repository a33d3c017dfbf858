/*
Package terraform checks the provisioning modules with terraform itself, without
any provider, network or account: that they are formatted, that their own tests
pass, and that the daemons take the configuration that they render.
*/
package terraform

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// run runs terraform in dir; what it keeps is kept outside the tree.
func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cluster.Need(t, "terraform")
	cmd := exec.Command("terraform", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TF_DATA_DIR="+filepath.Join(t.TempDir(), "data"), "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1")
	if args[0] != "fmt" {
		start := exec.Command("terraform", "init", "-no-color", "-input=false", "-backend=false")
		start.Dir, start.Env = dir, cmd.Env
		if out, err := start.CombinedOutput(); err != nil {
			t.Fatalf("terraform init: %v\n%s", err, out)
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("terraform %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestFormat(t *testing.T) { run(t, "../../terraform", "fmt", "-check", "-recursive", "-diff") }

func TestPlans(t *testing.T) {
	if out := run(t, "../../terraform", "test", "-no-color"); !strings.Contains(out, " 0 failed") {
		t.Error(out)
	}
}

// TestConfigurations applies the topology of two shapes and asks the program
// about each node's file.
func TestConfigurations(t *testing.T) {
	cluster.Need(t, "terraform")
	module, err := filepath.Abs("../../terraform/modules/topology")
	if err != nil {
		t.Fatal(err)
	}
	postern := filepath.Join(cluster.Binaries(t), "postern")
	for _, shape := range []struct{ relays, pairs int }{{1, 1}, {4, 8}} {
		t.Run(fmt.Sprintf("%d relays, %d pairs", shape.relays, shape.pairs), func(t *testing.T) {
			dir := t.TempDir()
			main := fmt.Sprintf(`module "topology" {
  source    = %q
  cluster   = "example"
  domain    = "example.com"
  versions  = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory = { base = "o=isp" }
  relays    = %d
  pairs     = %d
}
resource "terraform_data" "out" {
  provisioner "local-exec" {
    command     = "printf %%s \"$OUT\" > out.json"
    environment = { OUT = jsonencode({ configs = module.topology.configs, nodes = module.topology.nodes }) }
  }
}
`, module, shape.relays, shape.pairs)
			if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(main), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, dir, "apply", "-no-color", "-input=false", "-auto-approve")
			b, err := os.ReadFile(filepath.Join(dir, "out.json"))
			if err != nil {
				t.Fatal(err)
			}
			var out struct {
				Configs map[string]string
				Nodes   map[string]struct{ Tier string }
			}
			if err := json.Unmarshal(b, &out); err != nil {
				t.Fatal(err)
			}
			if len(out.Configs) < shape.relays+2*shape.pairs+1 {
				t.Errorf("%d files", len(out.Configs))
			}
			for node, text := range out.Configs {
				file := filepath.Join(dir, node+".yaml")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if said, err := exec.Command(postern, "config", "check", "--role", out.Nodes[node].Tier, file).CombinedOutput(); err != nil {
					t.Errorf("%s, a %s: %v\n%s\n%s", node, out.Nodes[node].Tier, err, said, text)
				}
			}
		})
	}
}
