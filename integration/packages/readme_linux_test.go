package packages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/peertest"
)

// step is a block of lines of a page, which are typed at one place.
type step struct {
	number int    // of its first line
	intro  string // the paragraph before
	lines  []string
}

// steps reads the indented blocks of a page from a heading to the next one.
func steps(t *testing.T, name, heading string) (out []step) {
	t.Helper()
	var here, coded bool
	var intro []string
	number, blank := 0, 0
	for line := range strings.Lines(string(read(t, name))) {
		number++
		line = strings.TrimRight(line, "\n")
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			here = line == heading
			intro, coded = nil, false
		case !here:
		case text == "" && coded:
			blank++
		case text == "":
			intro = append(intro, "")
		case strings.HasPrefix(line, "    "):
			if !coded {
				out = append(out, step{number: number, intro: paragraph(intro)})
			}
			last := &out[len(out)-1]
			if coded { // what is blank is inside
				last.lines = append(last.lines, make([]string, blank)...)
			}
			last.lines = append(last.lines, line)
			coded, blank = true, 0
		default:
			if coded {
				intro, coded = nil, false
			}
			intro = append(intro, text)
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s: no lines to type below %q", name, heading)
	}
	return out
}

// paragraph joins lines, whose last paragraph is the one meant.
func paragraph(lines []string) string {
	text := strings.TrimSpace(strings.Join(lines, "\n"))
	if i := strings.LastIndex(text, "\n\n"); i >= 0 {
		text = text[i+2:]
	}
	return strings.ReplaceAll(text, "\n", " ")
}

// text is the block without what all its lines are indented by.
func (s *step) text() string {
	by := len(s.lines[0]) - len(strings.TrimLeft(s.lines[0], " "))
	var b strings.Builder
	for _, line := range s.lines {
		b.WriteString(line[min(by, len(line)):] + "\n")
	}
	return b.String()
}

// commands are what a shell takes as one command each.
func (s *step) commands() (out []string) {
	text := ""
	for line := range strings.Lines(s.text()) {
		if text += line; text == "\n" {
			text = ""
			continue
		}
		check := exec.Command("bash", "-n")
		check.Stdin = strings.NewReader(text)
		said, err := check.CombinedOutput() // it only warns of a text that has no end
		if err == nil && len(said) == 0 && !strings.HasSuffix(text, "\\\n") {
			out = append(out, strings.TrimSuffix(text, "\n"))
			text = ""
		}
	}
	if text != "" {
		out = append(out, text) // which fails and is seen
	}
	return out
}

// look is what a line that begins so has to say. A line of which the page says that
// something is to be so afterwards is typed until it is.
type look struct {
	begins string
	again  bool
	answer string // what a person says to it
	at     func(said string) error
	seen   bool
}

func has(parts ...string) func(string) error {
	return func(said string) error {
		for _, p := range parts {
			if !strings.Contains(said, p) {
				return fmt.Errorf("it does not say %q", p)
			}
		}
		return nil
	}
}

// guide is a site whose machines are set up by what pages say.
type guide struct {
	*site
	operators *machine
	nodes     []*machine
	tiers     map[string]string // of nodes, by machine
	firewalls []*console
	looks     []*look
	rules     []rule
	own       bool // from now on every line is for the operators' machine
}

// rule says what to do with a step, by what is in the paragraph before it.
type rule struct {
	phrase string
	do     func(s *step) error
}

var (
	addressIn = regexp.MustCompile("`(\\w+)`\\s+(10\\.77\\.\\d+\\.\\d+)")
	tierIn    = regexp.MustCompile("`tier=(\\w+)` on\\s+((?:`\\w+`(?: and\\s+)?)+)")
	nameIn    = regexp.MustCompile("`(\\w+)`")
)

const readme = "../../deploy/README.md"

// operatorsAt is the operators' own address.
const operatorsAt = "10.77.3.10"

// section is the part of the page that is typed.
const section = "## Machines of your own"

// newGuide boots the machines that the page names.
func newGuide(t *testing.T) *guide {
	t.Helper()
	terraform := ""
	for _, p := range []string{"terraform", "tofu"} {
		if path, err := exec.LookPath(p); err == nil && terraform == "" {
			terraform = path
		}
	}
	if terraform == "" {
		peertest.Lacks(t, "neither terraform nor tofu is installed")
	}
	g := &guide{site: newSite(t), tiers: map[string]string{}}
	_, page, _ := strings.Cut(string(read(t, readme)), section+"\n")
	for _, m := range tierIn.FindAllStringSubmatch(page, -1) {
		for _, n := range nameIn.FindAllStringSubmatch(m[2], -1) {
			g.tiers[n[1]] = m[1]
		}
	}
	for _, m := range addressIn.FindAllStringSubmatch(page, -1) {
		if g.tiers[m[1]] != "" {
			g.nodes = append(g.nodes, g.boot(m[1], m[2], g.bare()))
		}
	}
	if len(g.nodes) != 4 || len(g.tiers) != 4 {
		t.Fatalf("the page names the machines %v with the tiers %v, want four", g.nodes, g.tiers)
	}
	root := g.bare()
	output(t, "cp", terraform, filepath.Join(root, "usr/local/bin/terraform"))
	output(t, "sh", "-ec", `mkdir "$0/root/postern"; cd ../..; git ls-files -z terraform | tar --null -T - -cf - | tar -C "$0/root/postern" -xf -`, root)
	g.operators = g.boot("operators", operatorsAt, root)
	for _, m := range append(g.nodes, g.operators) {
		m.login(t)
	}
	g.rules = []rule{
		{"as `main.tf`:", g.writePlan},
		{"n each of the four", g.atNodes},
		{"n each of the two firewalls", g.atFirewalls},
		{"n the operators'", g.atOperators},
	}
	for _, name := range []string{"outer", "inner"} {
		c := newConsole(t, name, t.TempDir(), []string{"--net=" + g.path(name)})
		t.Cleanup(c.close)
		g.firewalls = append(g.firewalls, c)
	}
	return g
}

// bare is the disk of a new machine, with the packages in root's home.
func (g *guide) bare() string {
	root := booting(g.t)
	output(g.t, "cp", "-r", dist(g.t), filepath.Join(root, "root/dist"))
	return root
}

// follow does the steps of a page in order.
func (g *guide) follow(name string, page []step) {
	g.t.Helper()
	for _, s := range page {
		if err := g.do(&s)(&s); err != nil {
			g.t.Fatalf("%s, line %d: %v", name, s.number, err)
		}
	}
}

// do is what to do with a step. A step that no rule is for fails.
func (g *guide) do(s *step) func(*step) error {
	g.own = g.own || strings.Contains(s.intro, "every line is for the operators' machine")
	switch i := slices.IndexFunc(g.rules, func(r rule) bool { return strings.Contains(s.intro, r.phrase) }); {
	case i >= 0:
		return g.rules[i].do
	case g.own:
		return g.atOperators
	}
	return func(*step) error { return errors.New("the page does not say where to type it") }
}

// looked: there was something to look at everywhere.
func (g *guide) looked() {
	for _, l := range g.looks {
		if !l.seen {
			g.t.Errorf("no line begins %q", l.begins)
		}
	}
}

func (g *guide) atOperators(s *step) error { return g.enter(g.operators.console, s) }

const planFile = "root/plan/main.tf"

func (g *guide) writePlan(s *step) error {
	put(g.t, g.operators.root, planFile, s.text())
	return nil
}

// atNodes types a step on all four machines, and lets the operators in.
func (g *guide) atNodes(s *step) error {
	err := g.everywhere(g.consoles(), s, func(i int) string { return "tier=" + g.tiers[g.nodes[i].name] })
	key := read(g.t, filepath.Join(g.operators.root, "root/.ssh/id_ed25519.pub"))
	for _, m := range g.nodes {
		put(g.t, m.root, "home/admin/.ssh/authorized_keys", string(key))
	}
	return err
}

// atFirewalls types a step on both, which have been given the rules. Machines that are
// none of the plan's, and have no packet filter, show that both close.
func (g *guide) atFirewalls(s *step) error {
	for _, c := range g.firewalls {
		output(g.t, "cp", filepath.Join(g.operators.root, "root/plan", c.place+".nft"), c.dir)
	}
	const inDMZ, inData = "10.77.1.99:25", "10.77.2.99:2424"
	for name, at := range map[string]string{"stranger": inDMZ, "other": inData} {
		g.host(name, strings.Split(at, ":")[0])
		var l net.Listener
		if err := g.within(name, func() (err error) { l, err = net.Listen("tcp", at); return err }); err != nil {
			return err
		}
		defer l.Close()
	}
	dial := func(from, to string) error {
		return g.within(from, func() error {
			c, err := net.DialTimeout("tcp", to, 10*time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	if err := errors.Join(dial("internet", inDMZ), dial("stranger", inData)); err != nil {
		return err
	}
	err := g.everywhere(g.firewalls, s, func(i int) string { return "zone=" + g.firewalls[i].place })
	for from, to := range map[string]string{"internet": inDMZ, "stranger": inData} {
		if refused := dial(from, to); !errors.Is(refused, unix.EHOSTUNREACH) {
			err = errors.Join(err, fmt.Errorf("from %s to %s: %w, want a refusal by the firewall", from, to, refused))
		}
	}
	return err
}

func (g *guide) consoles() (out []*console) {
	for _, m := range g.nodes {
		out = append(out, m.console)
	}
	return out
}

// everywhere types a step at several places at once, after what a person has to set
// at each.
func (g *guide) everywhere(places []*console, s *step, set func(i int) string) error {
	errs := make([]error, len(places))
	var wg sync.WaitGroup
	for i, c := range places {
		wg.Go(func() {
			if _, errs[i] = c.run(set(i)); errs[i] == nil {
				errs[i] = g.enter(c, s)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// enter types the commands of a step and looks at what they say.
func (g *guide) enter(c *console, s *step) error {
	for _, command := range s.commands() {
		var l *look
		if i := slices.IndexFunc(g.looks, func(l *look) bool { return strings.HasPrefix(command, l.begins) }); i >= 0 {
			l = g.looks[i]
		}
		began := time.Now()
		if l != nil {
			if _, err := c.answers.WriteString(l.answer); err != nil {
				return err
			}
		}
		said, err := c.run(command)
		for ; l != nil; time.Sleep(200 * time.Millisecond) {
			if l.seen = true; err == nil {
				err = l.at(said)
			}
			if err == nil || !l.again || time.Since(began) > time.Minute {
				break
			}
			said, err = c.run(command)
		}
		g.t.Logf("%s# %s  (%.1f s)", c.place, command, time.Since(began).Seconds())
		if err != nil {
			return fmt.Errorf("%s# %s\n%s\n%w", c.place, command, said, err)
		}
	}
	return nil
}

// zoneFile: the lines are a zone, in which the relay is found.
func zoneFile(said string) error {
	zone, err := dns.ParseZone("example.com", said)
	if err != nil {
		return err
	}
	mx, err := zone.MX(context.Background(), "example.com")
	if err != nil || len(mx) != 1 {
		return fmt.Errorf("MX of example.com: %v %w", mx, err)
	}
	for _, name := range []string{mx[0].Host, "mail.example.com"} {
		if at, err := zone.Addrs(context.Background(), name); err != nil || fmt.Sprint(at) != "[10.77.1.20]" {
			return fmt.Errorf("%s is at %v: %w", name, at, err)
		}
	}
	if text, err := zone.TXT(context.Background(), "example.com"); err != nil || fmt.Sprint(text) != "[v=spf1 ip4:10.77.1.20 -all]" {
		return fmt.Errorf("TXT of example.com: %q %w", text, err)
	}
	return nil
}

// serves: postern status has every node ready and a replica that serves.
func serves(said string) error {
	nodes, pairs, ok := strings.Cut(said, "\n\n")
	ready := regexp.MustCompile(`(?m)^\S+ .* ready `).FindAllString(nodes, -1)
	if !ok || len(ready) != 4 || !regexp.MustCompile(`(?m)^pair1 +m[12]-store `).MatchString(pairs) {
		return errors.New("not every node is ready, or no replica serves")
	}
	return nil
}

// fromOutside: the Internet reaches what it should.
func (g *guide) fromOutside() {
	t := g.t
	t.Helper()
	var matrix map[string]any
	err := json.Unmarshal(read(t, filepath.Join(g.operators.root, "root/plan/probe.json")), &matrix)
	if err != nil {
		t.Fatal(err)
	}
	matrix["hosts"].(map[string]any)["internet"] = []string{elsewhere}
	text, err := json.Marshal(matrix)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "probe.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Log(output(t, "nsenter", "--net="+g.path("internet"), filepath.Join(g.operators.root, "usr/bin/postern"), "probe", "--matrix", name, "--from", "internet"))
}

// last are the looks at what a cluster says in the end, whoever set up the directory.
func last() []*look {
	return []*look{
		{begins: "postern status ", again: true, at: serves},
		{begins: "swaks ", at: has("<-  250 ")},
		{begins: "curl ", at: has("Subject: hello")},
		{begins: "postern trace ", at: has("ana@example.com", "delivered")},
		{begins: "terraform output -json operator | jq -r .zone_file", at: zoneFile},
		{begins: "postern probe --matrix probe.json --from management", at: has(" 0 not as the matrix says")},
		{begins: "postern probe --matrix probe.json --from relay1,", at: has(" 0 not as the matrix says")},
	}
}

// TestReadme types the second part of deploy/README.md, every line of it, on machines
// that boot, from four bare ones to mail behind firewalls. What a person has to bring
// along is the test's: dist/, Terraform and the repository, the key of the operators on
// the machines, the rules on the firewalls, and which machine and which firewall it is.
func TestReadme(t *testing.T) {
	g := newGuide(t)
	g.looks = last()
	g.follow(readme, steps(t, readme, section))
	g.looked()
	g.fromOutside()
}

const openldap = "../../deploy/openldap/README.md"

// TestReadmeLDAP is the way with an LDAP server: the page of OpenLDAP is typed after
// the third step, and says what it takes the place of.
func TestReadmeLDAP(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("TestReadme again, with an LDAP server: POSTERN_NIGHTLY=1")
	}
	g := newGuide(t)
	ldap := g.boot("ldap", "10.77.2.5", g.bare())
	ldap.login(t)
	g.looks = append(last(), &look{begins: "echo secret | people user add", at: has("ana@example.com")})
	page := steps(t, readme, section)
	third := slices.IndexFunc(page, func(s step) bool { return strings.Contains(s.intro, "**Nodes**") })
	g.follow(readme, page[:third])
	g.rules = append([]rule{
		{"`main.tf` this takes the place of", g.changePlan},
		{"There, as root:", func(s *step) error {
			for _, name := range []string{"plan/ldap.pem", "plan/ldap-key.pem", "plan/nodes/relay1/state/ldap.password"} {
				output(t, "cp", filepath.Join(g.operators.root, "root", name), filepath.Join(ldap.root, "root"))
			}
			output(t, "cp", filepath.Dir(openldap)+"/postern.ldif", filepath.Join(ldap.root, "root"))
			return g.enter(ldap.console, s)
		}},
		{"People are added on `ldap`", func(s *step) error { return g.enter(ldap.console, s) }},
		// The page of OpenLDAP has other ones in their place.
		{"**People.**", func(*step) error { return nil }},
	}, g.rules...)
	server := steps(t, openldap, "## A new server")
	people := len(server) - 1
	g.follow(openldap, server[:people])
	fifth := slices.IndexFunc(page, func(s step) bool { return strings.Contains(s.intro, "**People.**") })
	g.follow(readme, page[third:fifth])
	g.follow(openldap, server[people:])
	g.follow(readme, page[fifth:])
	g.looked()
	// Lines for those who have a server, and what each says instead.
	var others []string
	for _, s := range steps(t, openldap, "# OpenLDAP for Postern") {
		others = append(others, s.commands()...)
	}
	for _, line := range others {
		if !strings.HasPrefix(line, "include ") && line != "ldapadd -Y EXTERNAL -H ldapi:/// -f postern.ldif" {
			t.Errorf("%s: nobody types %q", openldap, line)
		}
	}
}

// changePlan puts a step in the place of directory and options.
func (g *guide) changePlan(s *step) error {
	plan := string(read(g.t, filepath.Join(g.operators.root, planFile)))
	both := regexp.MustCompile(`(?s)  directory = \{\n.*?\n  \}\n  options = .*?\n  \} \} \} \}\n`)
	if len(both.FindAllString(plan, -1)) != 1 {
		return errors.New("the plan has no directory with options after it")
	}
	put(g.t, g.operators.root, planFile, both.ReplaceAllLiteralString(plan, s.text()))
	return nil
}

// TestSteps: what is read of a page is all its lines, each once, with the paragraph that
// says where they are typed.
func TestSteps(t *testing.T) {
	page := "# A\n\n    not here\n\n## B\n\nText.\n\n1. **One.** On the\n   first:\n\n       a\n       for x in 1 2; do\n         b\n       done\n\n" +
		"       cat <<END\n       c\n\n       d\n       END\n\n   Then:\n\n       e \\\n         f\n   and so on.\n2. Last\n\n       g\n\n## C\n\n    nor here\n"
	name := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(name, []byte(page), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps(t, name, "## B") {
		got = append(got, fmt.Sprintf("%d %s %q", s.number, s.intro, s.commands()))
	}
	want := []string{
		`12 1. **One.** On the first: ["a" "for x in 1 2; do\n  b\ndone" "cat <<END\nc\n\nd\nEND"]`,
		`25 Then: ["e \\\n  f"]`,
		`30 and so on. 2. Last ["g"]`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	g := &guide{site: &site{t: t}}
	said := ""
	for _, s := range steps(t, name, "## B") {
		if err := g.do(&s)(&s); err != nil {
			said = err.Error()
		}
	}
	if said != "the page does not say where to type it" {
		t.Errorf("a step without a place: %q", said)
	}
}
