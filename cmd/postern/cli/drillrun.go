package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/netns"
	"github.com/postern-mail/postern/ha/drill/site"
)

// opener makes the target of a scenario.
type opener struct {
	// can says beforehand why a scenario is not possible, nil when it may be.
	can  func(s *drill.Scenario) error
	open func(ctx context.Context, s *drill.Scenario) (t drill.Target, end func() error, err error)
}

// From manySessions on the cluster in namespaces has manyUsers, so that few of
// them are one user's.
const (
	manySessions = 20
	manyUsers    = 40
)

// target chooses by the flags.
func (fl *drillFlags) target() (opener, error) {
	any := func(*drill.Scenario) error { return nil }
	switch {
	case fl.dir != "":
		return opener{any, func(context.Context, *drill.Scenario) (drill.Target, func() error, error) {
			t, err := openDevDrill(fl.dir, fl.other)
			if err != nil {
				return nil, nil, err
			}
			return t, func() error { t.close(); return nil }, nil
		}}, nil
	case fl.cluster != "":
		t, err := site.Open(fl.cluster)
		if err != nil {
			return opener{}, err
		}
		return opener{any, func(context.Context, *drill.Scenario) (drill.Target, func() error, error) {
			return t, func() error { return nil }, nil
		}}, nil
	case fl.namespaces:
		if err := netns.Possible(); err != nil {
			return opener{}, err
		}
		// What a drill that was killed has left would only be in the way.
		if _, err := netns.Clean(context.Background()); err != nil {
			return opener{}, err
		}
		return opener{netns.Can, func(ctx context.Context, s *drill.Scenario) (drill.Target, func() error, error) {
			users := 0
			if max(fl.o.Sessions, s.Sessions) > manySessions {
				users = manyUsers
			}
			users = max(users, s.Users, fl.o.Users)
			if s.Idle {
				users += max(fl.o.Sessions, s.Sessions)
			}
			lab, err := netns.Start(ctx, netns.Options{Pairs: s.Pairs, Disk: netns.DiskFor(s), Users: users, Memory: slices.Contains(s.Needs, drill.LimitMemory), Before: slices.Contains(s.Needs, drill.Upgrade)})
			if err != nil {
				return nil, nil, err
			}
			return newLabTarget(lab, fl.other), func() error {
				var err error
				if fl.logs != "" {
					err = lab.SaveLogs(filepath.Join(fl.logs, s.Name))
				}
				return errors.Join(err, lab.Close())
			}, nil
		}}, nil
	}
	return opener{}, fmt.Errorf("name the cluster: --dir DIR, --namespaces or --cluster FILE")
}

// liveLine tells how far the drills are: one line that is written again and
// again on a terminal, a line for each phase elsewhere.
type liveLine struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex
	phase string
	width int
}

func newLiveLine(w io.Writer, terminal bool) *liveLine { return &liveLine{w: w, terminal: terminal} }

func (l *liveLine) begin(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase = ""
	if !l.terminal {
		fmt.Fprintf(l.w, "%s: begins\n", name)
		return
	}
	l.put(name + "  begins")
}

func (l *liveLine) show(p drill.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminal {
		l.put(fmt.Sprintf("%s  %-16s %5s  sent %d  acknowledged %d  refused %d  unknown %d",
			p.Scenario, p.Phase, p.Elapsed.Round(time.Second), p.Sent, p.Acknowledged, p.Refused, p.Unknown))
		return
	}
	if p.Phase != l.phase {
		l.phase = p.Phase
		fmt.Fprintf(l.w, "%s: %s at %s, %d acknowledged\n", p.Scenario, p.Phase, p.Elapsed.Round(100*time.Millisecond), p.Acknowledged)
	}
}

// put replaces the line.
func (l *liveLine) put(s string) {
	pad := max(0, l.width-len(s))
	fmt.Fprintf(l.w, "\r%s%s", s, strings.Repeat(" ", pad))
	l.width = len(s)
}

func (l *liveLine) end(r *drill.Result) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminal {
		l.put("")
		fmt.Fprint(l.w, "\r")
		l.width = 0
	}
	text := fmt.Sprintf("%s: %s", r.Scenario, r.Verdict)
	if r.Reason != "" {
		text += ": " + table.Clean(r.Reason)
	}
	fmt.Fprintln(l.w, text)
}
