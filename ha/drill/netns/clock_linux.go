package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/ha/drill"
)

// adjustable is beside programs whose clock can be set, clockEnv names the file
// with the seconds that their clock is ahead.
const (
	adjustable = "adjustable-clock"
	clockEnv   = "POSTERN_DRILL_CLOCK"
)

func (l *layout) clockFile(host string) string { return filepath.Join(l.dir, host+".clock") }

// setClock replaces the file whole: a node reads it at any moment.
func (lab *Lab) setClock(host string, by time.Duration) error {
	name := lab.l.clockFile(host)
	if err := os.WriteFile(name+".new", fmt.Appendf(nil, "%d\n", int64(by/time.Second)), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func (lab *Lab) certs() drill.Certs {
	return drill.Certs{CA: filepath.Join(lab.l.dir, "ca"), Node: func(node string) string { return lab.l.file(node, "tls") }}
}
