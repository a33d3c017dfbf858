package replica_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/witness"
)

// processEnv names the file that makes the test binary run one node.
const processEnv = "POSTERN_TEST_NODE"

// nodeFile describes a node to its process.
type nodeFile struct {
	Name, Dir string
	Peers     []replica.Peer
	Bootstrap bool
	CA        []byte // PEM
	Cert, Key []byte
	Control   string // address to listen on
}

// runProcess is the node: it takes items, one a line, on its control port and
// answers "ok", "no" or "unknown".
func runProcess() {
	data, err := os.ReadFile(os.Getenv(processEnv))
	fatal(err)
	var f nodeFile
	fatal(json.Unmarshal(data, &f))
	pair, err := tls.X509KeyPair(f.Cert, f.Key)
	fatal(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(f.CA)
	var cfg replica.Config
	cfg.Dir, cfg.Pair, cfg.Peers, cfg.Bootstrap = f.Dir, "pair1", f.Peers, f.Bootstrap
	cfg.ServerTLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	cfg.ClientTLS = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}
	cfg.Authorize, cfg.SegmentSize = replicatest.Authorize("pair1-"), 4<<20
	cfg.OnFatal = func(err error) { fatal(err) }
	for _, p := range f.Peers {
		if p.Name == f.Name {
			cfg.ID, cfg.Bind = p.ID, p.Addr
		}
	}
	control, err := net.Listen("tcp", f.Control)
	fatal(err)
	if f.Name == "w" {
		w, err := witness.New(cfg.Config)
		fatal(err)
		fatal(w.Run(context.Background()))
	}
	list := replicatest.EmptyList(filepath.Join(f.Dir, "state"))
	cfg.FSM = list
	r, err := replica.New(cfg)
	fatal(err)
	go func() {
		for {
			c, err := control.Accept()
			fatal(err)
			go serveControl(c, &node{Name: f.Name, R: r, List: list})
		}
	}()
	fatal(r.Run(context.Background()))
}

func serveControl(c net.Conn, n *node) {
	defer c.Close()
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		switch text := lines.Text(); {
		case text == "list":
			fmt.Fprintln(c, strings.Join(n.List.Items(), " "))
		case !n.R.Serving():
			fmt.Fprintln(c, "no")
		default:
			if err := propose(n, text, 1000); err != nil {
				fmt.Fprintln(c, "unknown")
			} else {
				fmt.Fprintln(c, "ok")
			}
		}
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// process is a node in a process of its own.
type process struct {
	t    *testing.T
	file nodeFile
	path string
	cmd  *exec.Cmd
}

func (p *process) start() {
	data, err := json.Marshal(p.file)
	must(p.t, err)
	must(p.t, os.WriteFile(p.path, data, 0o600))
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), processEnv+"="+p.path)
	p.cmd.Stderr = os.Stderr
	must(p.t, p.cmd.Start())
	p.file.Bootstrap = false
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // may have ended
	_ = p.cmd.Wait()         // says that it was killed
}

// say sends a line and returns the answer, "" if there is none.
func (p *process) say(text string) string {
	c, err := net.DialTimeout("tcp", p.file.Control, time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(c, text)
	answer, _ := bufio.NewReader(c).ReadString('\n') // "" then
	return strings.TrimSpace(answer)
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// TestKillProcess kills the serving process again and again, and measures the
// time until the other replica has committed something.
func TestKillProcess(t *testing.T) {
	trials := 5
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		trials = 20
	}
	dir, auth := t.TempDir(), replicatest.NewCA(t)
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: auth.Cert.Raw})
	var peers []replica.Peer
	for _, name := range []string{"a", "b", "w"} {
		peers = append(peers, replica.Peer{ID: replica.NewID(), Name: name, Addr: freeAddr(t), Witness: name == "w"})
	}
	nodes := map[string]*process{}
	for _, peer := range peers {
		_, conf := auth.Issue(t, "pair1-"+peer.Name)
		key, err := x509.MarshalPKCS8PrivateKey(conf.Certificates[0].PrivateKey)
		must(t, err)
		p := &process{t: t, path: filepath.Join(dir, peer.Name+".json"), file: nodeFile{
			Name: peer.Name, Dir: filepath.Join(dir, peer.Name), Peers: peers, Bootstrap: true, CA: caPEM, Control: freeAddr(t),
			Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conf.Certificates[0].Certificate[0]}),
			Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		}}
		p.start()
		defer p.kill()
		nodes[peer.Name] = p
	}
	acked := [][]string{nil}
	commit := func(text string) string { // on whoever serves
		for i, end := 0, time.Now().Add(15*time.Second); time.Now().Before(end); i++ {
			for _, name := range []string{"a", "b"} {
				try := fmt.Sprintf("%s.%d", text, i)
				if nodes[name].say(try) == "ok" {
					acked[0] = append(acked[0], try)
					return name
				}
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Fatalf("%s was not committed", text)
		return ""
	}
	var took []time.Duration
	for i := range trials {
		serving := commit(fmt.Sprintf("before%d", i))
		time.Sleep(200 * time.Millisecond) // watches and heartbeats settle
		start := time.Now()
		nodes[serving].kill()
		if now := commit(fmt.Sprintf("after%d", i)); now == serving {
			t.Fatalf("%s answers after its death", now)
		}
		took = append(took, time.Since(start))
		nodes[serving].start()
		// Wait until the returned one has what was committed.
		last := acked[0][len(acked[0])-1]
		for end := time.Now().Add(15 * time.Second); !strings.Contains(nodes[serving].say("list"), last); {
			if time.Now().After(end) {
				t.Fatalf("%s does not catch up", serving)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	slices.Sort(took)
	t.Logf("kill -9 to the next commit, %d trials: p50 %v, max %v: %v", trials, took[len(took)/2], took[len(took)-1], took)
	if slow == 1 && (took[len(took)/2] > 300*time.Millisecond || took[len(took)-1] > 3*time.Second) {
		t.Errorf("p50 over 0.3 s or maximum over 3 s")
	}
	for _, name := range []string{"a", "b"} {
		checkHistory(t, strings.Fields(nodes[name].say("list")), acked)
	}
}
