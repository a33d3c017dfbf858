/*
Package bench measures whole systems from outside: Postern beside what a site
would run in its place, the same mail, the same directory, in the same run.

	go test ./integration/bench -v -recipients 100000 -members 50000 -timeout 30m

Without these flags it does the same for a few hundred, which shows that the
figures can still be made and that what is asserted about them holds: look-ups a
recipient, bodies a replica, nobody missed and nobody twice. README.md has the
figures. The scripts beside it plug Postern into the side-by-side load that is
not part of this module.
*/
package bench

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

var (
	recipients = flag.Int("recipients", 300, "distinct recipients that nobody has asked for")
	members    = flag.Int("members", 1200, "members of the list")
	sessions   = flag.Int("sessions", 16, "sessions that send at the same time")
	alone      = flag.Bool("alone", false, "leave out what Postern is compared with")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

const domain = "example.test"

// usage is what a program with all that it starts has used.
type usage struct {
	cpu     time.Duration
	largest map[string]int64 // peak of the resident memory of one process, by program, in KB
	sum     int64            // peak of the memory of all of them, shared pages counted once, in KB
	procs   int              // and how many they were
}

// watch looks at a process and its descendants until stop is called.
type watch struct {
	pid  int
	from time.Duration
	quit chan struct{}
	done sync.WaitGroup
	u    usage
}

func watching(t testing.TB, pid int) *watch {
	t.Helper()
	w := &watch{pid: pid, quit: make(chan struct{}), u: usage{largest: map[string]int64{}}}
	if w.from = w.look(); w.from < 0 {
		t.Fatalf("process %d is not there", pid)
	}
	w.done.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.look()
			case <-w.quit:
				return
			}
		}
	})
	return w
}

func (w *watch) stop() usage {
	close(w.quit)
	w.done.Wait()
	w.u.cpu = w.look() - w.from
	return w.u
}

// tick is the unit of times in /proc.
const tick = 10 * time.Millisecond

// look notes the memory and returns the CPU time that the tree has used, with
// those of it that have ended; -1 when there is no such process.
func (w *watch) look() time.Duration {
	pids := tree(w.pid)
	cpu, sum := time.Duration(-1), int64(0)
	for _, p := range pids {
		name, fields := stat(p)
		if fields == nil {
			continue
		}
		cpu = max(cpu, 0)
		for _, f := range fields[11:15] { // utime, stime, cutime, cstime
			n, _ := strconv.Atoi(f)
			cpu += time.Duration(n) * tick
		}
		w.u.largest[name] = max(w.u.largest[name], kilobytes(p, "status", "VmHWM:"))
		sum += kilobytes(p, "smaps_rollup", "Pss:")
	}
	w.u.sum, w.u.procs = max(w.u.sum, sum), max(w.u.procs, len(pids))
	return cpu
}

// stat is a process's name and the fields of /proc/PID/stat behind it, beginning
// with its state.
func stat(pid int) (name string, fields []string) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if err != nil || open < 0 || end < open {
		return "", nil
	}
	if fields = strings.Fields(string(data[end+1:])); len(fields) < 15 {
		return "", nil
	}
	return string(data[open+1 : end]), fields
}

// tree is pid and all processes that descend from it.
func tree(pid int) []int {
	children := map[int][]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		p, _ := strconv.Atoi(filepath.Base(d))
		if _, fields := stat(p); fields != nil {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], p)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

func kilobytes(pid int, file, field string) int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// peaks prints the programs of a tree with the largest process of each, those of
// a few megabytes left out.
func (u usage) peaks() string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(u.largest)) {
		if mb := float64(u.largest[name]) / 1024; mb >= 8 || len(u.largest) == 1 {
			out = append(out, fmt.Sprintf("%s %.0f", name, mb))
		}
	}
	return strings.Join(out, ", ")
}

// part is a piece of a system.
type part struct {
	name string
	pids []int
}

// system is a mail system that is being measured.
type system struct {
	name  string
	parts []part
	on    map[string][]*watch
}

func (s *system) begin(t testing.TB) {
	t.Helper()
	s.on = map[string][]*watch{}
	for _, p := range s.parts {
		for _, pid := range p.pids {
			s.on[p.name] = append(s.on[p.name], watching(t, pid))
		}
	}
}

// end writes a row for each part: CPU, peak of the largest process, peak of all.
func (s *system) end(tab *table, what string, took time.Duration, count int) {
	all := time.Duration(0)
	for _, p := range s.parts {
		u := usage{largest: map[string]int64{}}
		for _, w := range s.on[p.name] {
			v := w.stop()
			u.cpu, u.sum, u.procs = u.cpu+v.cpu, u.sum+v.sum, u.procs+v.procs
			for name, kb := range v.largest {
				u.largest[name] = max(u.largest[name], kb)
			}
		}
		all += u.cpu
		tab.row(s.name, what, p.name, "", u.cpu, perMessage(u.cpu, count), fmt.Sprint(u.procs), fmt.Sprint(u.sum/1024), u.peaks())
	}
	tab.row(s.name, what, "all", took, all, perMessage(all, count))
}

// head is the head of a table of usage.
func head(t *table) {
	t.row("system", "what", "part", "time", "CPU", "us each", "processes", "MB", "VmHWM of one, MB")
}

func perMessage(d time.Duration, n int) string {
	return fmt.Sprintf("%.0f", float64(d.Microseconds())/float64(max(n, 1)))
}

// table prints figures in columns.
type table struct {
	b strings.Builder
	w *tabwriter.Writer
}

func newTable() *table {
	t := &table{}
	t.w = tabwriter.NewWriter(&t.b, 0, 0, 2, ' ', 0)
	return t
}

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		switch v := c.(type) {
		case float64:
			fmt.Fprintf(t.w, "%.4g", v)
		case time.Duration:
			fmt.Fprintf(t.w, "%.2f s", v.Seconds())
		default:
			fmt.Fprint(t.w, v)
		}
	}
	fmt.Fprintln(t.w)
}

func (t *table) String() string {
	t.w.Flush()
	return "\n" + t.b.String()
}
