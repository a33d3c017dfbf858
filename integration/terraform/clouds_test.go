package terraform

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/postern-mail/postern/shared/peertest"
)

// clouds are the modules that need a provider, which cannot be had here: they are
// read, not run.
var clouds = []string{"aws", "hetzner", "openstack"}

// tfModule is what a folder of .tf files declares and what it refers to.
type tfModule struct {
	dir       string
	variables map[string]bool // with a default or without
	outputs   map[string]bool
	locals    map[string]bool
	resources map[string]bool // type.name, and data.type.name
	calls     map[string]tfCall
	refs      []hcl.Traversal
}

// tfCall is a module block.
type tfCall struct {
	source string
	args   map[string]hclsyntax.Expression
}

// readModule parses the .tf files of a folder.
func readModule(t *testing.T, dir string) *tfModule {
	t.Helper()
	m := &tfModule{
		dir: dir, variables: map[string]bool{}, outputs: map[string]bool{}, locals: map[string]bool{},
		resources: map[string]bool{}, calls: map[string]tfCall{},
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no .tf file: %v", dir, err)
	}
	parser := hclparse.NewParser()
	for _, name := range files {
		f, diags := parser.ParseHCLFile(name)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		body := f.Body.(*hclsyntax.Body)
		for _, b := range body.Blocks {
			m.declare(t, b)
		}
		m.refs = append(m.refs, references(body)...)
	}
	return m
}

func (m *tfModule) declare(t *testing.T, b *hclsyntax.Block) {
	t.Helper()
	switch b.Type {
	case "variable":
		_, optional := b.Body.Attributes["default"]
		m.variables[b.Labels[0]] = optional
		if b.Body.Attributes["description"] == nil || b.Body.Attributes["type"] == nil {
			t.Errorf("%s: the variable %s wants a description and a type", m.dir, b.Labels[0])
		}
	case "output":
		m.outputs[b.Labels[0]] = true
	case "locals":
		for name := range b.Body.Attributes {
			m.locals[name] = true
		}
	case "resource":
		m.resources[b.Labels[0]+"."+b.Labels[1]] = true
	case "data":
		m.resources["data."+b.Labels[0]+"."+b.Labels[1]] = true
	case "module":
		call := tfCall{args: map[string]hclsyntax.Expression{}}
		for name, a := range b.Body.Attributes {
			if name == "source" {
				v, diags := a.Expr.Value(nil)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				call.source = v.AsString()
				continue
			}
			call.args[name] = a.Expr
		}
		m.calls[b.Labels[0]] = call
	}
}

// references collects what the expressions of a body refer to, without the names
// that a for expression or a dynamic block brings along.
func references(body *hclsyntax.Body) (refs []hcl.Traversal) {
	for name, a := range body.Attributes {
		if name != "source" && name != "ignore_changes" && name != "depends_on" {
			refs = append(refs, a.Expr.Variables()...)
		}
	}
	for _, b := range body.Blocks {
		if b.Type == "variable" {
			delete(b.Body.Attributes, "type") // names of types are no references
		}
		inner := references(b.Body)
		if b.Type == "dynamic" {
			inner = slices.DeleteFunc(inner, func(r hcl.Traversal) bool { return r.RootName() == b.Labels[0] })
		}
		if b.Type == "terraform" || b.Type == "required_providers" {
			continue
		}
		refs = append(refs, inner...)
	}
	return refs
}

// step is the n-th name of a reference, empty for an index.
func step(r hcl.Traversal, n int) string {
	if n >= len(r) {
		return ""
	}
	switch s := r[n].(type) {
	case hcl.TraverseRoot:
		return s.Name
	case hcl.TraverseAttr:
		return s.Name
	}
	return ""
}

// unresolved lists the references of a module that lead nowhere, and the faults of
// its calls of other modules.
func (m *tfModule) unresolved(t *testing.T) (faults []string) {
	called := map[string]*tfModule{}
	for name, c := range m.calls {
		target := readModule(t, filepath.Join(m.dir, c.source))
		called[name] = target
		for arg := range c.args {
			if _, ok := target.variables[arg]; !ok {
				faults = append(faults, "module "+name+" has no variable "+arg)
			}
		}
		for v, optional := range target.variables {
			if _, given := c.args[v]; !given && !optional {
				faults = append(faults, "module "+name+" wants "+v)
			}
		}
	}
	for _, r := range m.refs {
		ok := true
		switch r.RootName() {
		case "var":
			_, ok = m.variables[step(r, 1)]
		case "local":
			ok = m.locals[step(r, 1)]
		case "module":
			target := called[step(r, 1)]
			ok = target != nil && (len(r) == 2 || target.outputs[step(r, 2)])
		case "data":
			ok = m.resources["data."+step(r, 1)+"."+step(r, 2)]
		case "each", "path", "count", "self":
		default:
			ok = m.resources[step(r, 0)+"."+step(r, 1)]
		}
		if !ok {
			faults = append(faults, named(r))
		}
	}
	return faults
}

// named is a reference with its place.
func named(r hcl.Traversal) string {
	var names []string
	for i := range r {
		names = append(names, step(r, i))
	}
	return r.SourceRange().String() + ": " + strings.Join(names, ".")
}

// consumes adds the outputs of the plan that a module uses, also through the
// modules to which it hands the plan on.
func (m *tfModule) consumes(t *testing.T, used map[string]bool) {
	for _, r := range m.refs {
		if r.RootName() == "var" && step(r, 1) == "plan" && step(r, 2) != "" {
			used[step(r, 2)] = true
		}
	}
	for _, c := range m.calls {
		if c.args["plan"] != nil {
			readModule(t, filepath.Join(m.dir, c.source)).consumes(t, used)
		}
	}
}

// TestClouds: the modules for clouds are whole as far as that shows without their
// providers: they parse, whatever they refer to exists, they consume every output
// of the plan, and each says that it was never applied.
func TestClouds(t *testing.T) {
	outputs := readModule(t, filepath.Join(tree, "modules", "topology")).outputs
	if len(outputs) < 10 {
		t.Fatalf("outputs of the topology module: %v", outputs)
	}
	for _, cloud := range clouds {
		t.Run(cloud, func(t *testing.T) {
			m := readModule(t, filepath.Join(tree, "modules", cloud))
			if faults := m.unresolved(t); faults != nil {
				t.Error(strings.Join(faults, "\n"))
			}
			used := map[string]bool{}
			m.consumes(t, used)
			for name := range outputs {
				if !used[name] {
					t.Errorf("the output %s of the plan is not used", name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(used)) {
				if !outputs[name] {
					t.Errorf("the plan has no output %s", name)
				}
			}
			example := readModule(t, filepath.Join(tree, "examples", cloud))
			if faults := example.unresolved(t); faults != nil {
				t.Error("example: ", strings.Join(faults, "\n"))
			}
			for _, dir := range []string{"modules", "examples"} {
				text, err := os.ReadFile(filepath.Join(tree, dir, cloud, "README.md"))
				if err != nil {
					t.Error(err)
				} else if !strings.Contains(string(text), "never applied") {
					t.Errorf("%s/%s/README.md does not say that it was never applied", dir, cloud)
				}
			}
		})
	}
}

// TestUnresolved: the reader of modules sees what is wrong with one.
func TestUnresolved(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/main.tf": `
variable "plan" {
  description = "d"
  type        = any
}
variable "x" {
  description = "d"
  type        = string
  default     = ""
}
output "o" { value = var.plan.nodes }`,
		"b/main.tf": `
locals { l = [for a in var.none : a.b] }
module "a" {
  source = "../a"
  y      = thing.t.id
}
resource "thing" "t" {
  k = module.a.p
  dynamic "rule" {
    for_each = local.l
    content { v = rule.value + local.m }
  }
}`,
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if f := readModule(t, filepath.Join(dir, "a")).unresolved(t); f != nil {
		t.Error(f)
	}
	faults := strings.Join(readModule(t, filepath.Join(dir, "b")).unresolved(t), "\n")
	for _, want := range []string{"var.none", "module a has no variable y", "module a wants plan", "module.a.p", "local.m"} {
		if !strings.Contains(faults, want) {
			t.Errorf("not seen: %s", want)
		}
	}
	if n := strings.Count(faults, "\n") + 1; n != 5 {
		t.Errorf("%d faults, want 5:\n%s", n, faults)
	}
}

// TestMachines: what the machines of a cluster are told is what a shell and the
// packet filter can read.
func TestMachines(t *testing.T) {
	program := installed(t)[0]
	peertest.Programs(t, "nft", "ip", "sh")
	dir := filepath.Join(work(t), "machines")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := `
module "topology" {
  source    = "../modules/topology"
  cluster   = "example"
  domain    = "example.com"
  versions  = { relay = "0.3.0", backend = "0.2.0", witness = "0.2.0" }
  directory = { base = "o=isp" }
  relays    = 2
  pairs     = 2
  ssh_port  = 22

  time_servers     = ["10.77.3.9"]
  public_addresses = { relay1 = "203.0.113.1" }
}
module "machines" {
  source   = "../modules/machines"
  plan     = module.topology
  ssh_keys = ["ssh-ed25519 AAAA test"]
}
output "complete" { value = module.machines.complete }
output "user_data" { value = module.machines.user_data }
output "machine" { value = module.topology.firewalls.machine }
`
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, dir, program, "init", "-input=false")
	must(t, dir, program, "apply", "-input=false", "-auto-approve")
	var out struct {
		Complete map[string]string `json:"complete"`
		UserData map[string]string `json:"user_data"`
		Machine  map[string]string `json:"machine"`
	}
	outputs(t, dir, program, &out)
	if len(out.Complete) != 7 || len(out.UserData) != 7 {
		t.Fatalf("%d scripts and %d files for cloud-init, want 7", len(out.Complete), len(out.UserData))
	}
	for name, script := range out.Complete {
		cmd := exec.Command("sh", "-n")
		cmd.Stdin = strings.NewReader(script)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", name, err, said, script)
		}
		if len(out.UserData[name]) > 32<<10 {
			t.Errorf("%s: %d octets for cloud-init; the smallest limit of the clouds, compressed or not, is 32 KiB", name, len(out.UserData[name]))
		}
		takesRules(t, name, out.Machine[name])
	}
}
