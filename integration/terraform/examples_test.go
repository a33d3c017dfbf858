package terraform

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/postern-mail/postern/integration/cluster"
)

var update = flag.Bool("update", false, "write deploy/examples anew")

// sizes are the clusters of deploy/examples, by folder.
var sizes = map[string]string{
	"1-relay-1-pair": `
  relays = 1
  pairs  = 1
  sites  = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
`,
	"2-relays-2-pairs": `
  relays = 2
  pairs  = 2
  sites  = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
`,
	"4-relays-8-pairs-2-sites": `
  relays = 4
  pairs  = 8
  sites = [
    { name = "north", cidr = "10.10.0.0/16", failure_domains = ["1", "2"] },
    { name = "south", cidr = "10.20.0.0/16", failure_domains = ["1", "2"] },
  ]
  management = ["192.0.2.0/24"]
  resolvers  = ["10.10.3.9", "10.20.3.9"]
`,
}

// TestExamples: the example configurations are those of the plan beside them, and
// the daemons take them.
func TestExamples(t *testing.T) {
	program := installed(t)[0]
	postern := filepath.Join(cluster.Binaries(t), "postern")
	for _, size := range slices.Sorted(maps.Keys(sizes)) {
		t.Run(size, func(t *testing.T) {
			p := render(t, program, sizes[size])
			dir := filepath.Join("../../deploy/examples", size)
			want := map[string]string{"example.com.zone": p.DNS.ZoneFile, "outer.nft": p.Firewalls.Zone["outer"], "inner.nft": p.Firewalls.Zone["inner"]}
			for name, text := range p.Configs {
				want[name+".yaml"] = text
			}
			if *update {
				if err := os.RemoveAll(dir); err != nil {
					t.Fatal(err)
				}
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				for name, text := range want {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			files, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != len(want) {
				t.Errorf("%d files, want %d", len(files), len(want))
			}
			for name, text := range want {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || string(got) != text {
					t.Errorf("%s is not what the plan says (%v): go test ./integration/terraform -run TestExamples -update", name, err)
				}
			}
			for name, n := range p.Nodes {
				must(t, ".", postern, "config", "check", filepath.Join(dir, name+".yaml"), "--role", n.Tier)
			}
		})
	}
}
