package terraform

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/peertest"
)

// TestFormatted: every file is as `terraform fmt` writes it.
func TestFormatted(t *testing.T) {
	program := installed(t)[0]
	if out := must(t, tree, program, "fmt", "-check", "-recursive", "-diff"); out != "" {
		t.Error(out)
	}
}

// TestTopology runs the plans of terraform/tests.
func TestTopology(t *testing.T) {
	both(t, func(t *testing.T, program string) {
		dir := work(t)
		must(t, dir, program, "init", "-input=false")
		out := must(t, dir, program, "test", "-no-color")
		if !strings.Contains(out, "0 failed.") || strings.Contains(out, "Success! 0 passed") {
			t.Error(out)
		}
		t.Log(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
	})
}

// plan is what the topology module puts out, as far as it is looked at here.
type plan struct {
	Nodes     map[string]struct{ Tier, Zone, Address, Version string }
	Configs   map[string]string
	Firewalls struct {
		Machine, Zone map[string]string
	}
	DNS struct {
		ZoneFile string `json:"zone_file"`
	} `json:"dns"`
}

// shapes are clusters that are rendered, each with the number of its nodes.
var shapes = []struct {
	name, variables string
	nodes           int
}{
	{"1 relay, 1 pair", `relays = 1`, 4},
	{"4 relays, 8 pairs, two sites", `
		relays = 4
		pairs  = 8
		sites  = [{ name = "n", cidr = "10.10.0.0/16", failure_domains = ["1", "2"] }, { name = "s", cidr = "10.20.0.0/16", failure_domains = ["1", "2"] }]
		management = ["192.0.2.0/24"]
		resolvers  = ["10.10.3.9"]`, 24},
	{"three machines, two pairs", `
		relays = 1
		pairs  = 2
		sites  = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
		hosts  = {
			edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
			m1   = { site = "a", zone = "data", address = "10.77.2.51", failure_domain = "1" }
			m2   = { site = "a", zone = "data", address = "10.77.2.52", failure_domain = "2" }
			m3   = { site = "a", zone = "data", address = "10.77.2.53", failure_domain = "3" }
		}
		placement = { pair2 = { a = "m2", b = "m3", witness = "m1" } }`, 6},
	{"a zone of the relays", `
		relays            = 2
		public_addresses6 = { relay2 = "2001:db8::2" }
		dns_zone          = { name = "mx.example.com", names = ["imap.mx.example.com"], contact = "dns@example.com" }`, 5},
	{"roles apart", `
		relays      = 3
		relay_roles = { relay1 = ["mx"], relay2 = ["submit", "outbound"], relay3 = ["proxy"] }
		directory   = { base = "o=isp", addresses = ["10.77.2.8"], ports = [636], bind_dn = "cn=relay,o=isp", password_file = "ldap.password", ca = "ldap-ca.pem" }`, 6},
}

// TestRendered: the daemons take their configuration files, nft takes the rules
// and our resolver the zone.
func TestRendered(t *testing.T) {
	program := installed(t)[0]
	peertest.Programs(t, "nft", "ip")
	bin := cluster.Binaries(t)
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			p := render(t, program, shape.variables)
			if len(p.Nodes) != shape.nodes || len(p.Configs) != shape.nodes {
				t.Fatalf("%d nodes and %d files, want %d: %v", len(p.Nodes), len(p.Configs), shape.nodes, p.Nodes)
			}
			dir := t.TempDir()
			for name, text := range p.Configs {
				file := filepath.Join(dir, name+".yaml")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				tier := p.Nodes[name].Tier
				must(t, dir, filepath.Join(bin, "postern"), "config", "check", file, "--role", tier)
				must(t, dir, filepath.Join(bin, "postern-"+tier), "--config", file, "--check")
			}
			for _, rules := range []map[string]string{p.Firewalls.Machine, p.Firewalls.Zone} {
				for name, text := range rules {
					takesRules(t, name, text)
				}
			}
			zone := new(dns.Zone)
			for line := range strings.Lines(p.DNS.ZoneFile) {
				if err := zone.Add(strings.TrimSpace(line)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// render applies the topology module, which makes nothing but outputs.
func render(t *testing.T, program, variables string) *plan {
	t.Helper()
	dir := filepath.Join(work(t), "rendered")
	directory := `directory = { base = "o=isp" }`
	if strings.Contains(variables, "directory ") {
		directory = ""
	}
	text := fmt.Sprintf(`
module "topology" {
  source   = "../modules/topology"
  cluster  = "example"
  domain   = "example.com"
  versions = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  %s
  %s
}
output "nodes" { value = module.topology.nodes }
output "configs" { value = module.topology.configs }
output "firewalls" { value = module.topology.firewalls }
output "dns" { value = module.topology.dns }
`, directory, variables)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, dir, program, "init", "-input=false")
	must(t, dir, program, "apply", "-input=false", "-auto-approve")
	p := new(plan)
	outputs(t, dir, program, p)
	return p
}

// takesRules has nft check rules, in a namespace of its own when that is allowed.
func takesRules(t *testing.T, name, rules string) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("POSTERN_CI") == "" {
		t.Logf("nft needs root: the rules of %s are not checked", name)
		return
	}
	cmd := exec.Command("unshare", "--net", "nft", "--check", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("rules of %s: %v\n%s\n%s", name, err, out, rules)
	}
}
