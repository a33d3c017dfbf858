//go:build !linux

package netns

import (
	"context"
	"errors"
	"os/exec"

	"github.com/postern-mail/postern/ha/drill"
)

var errLinux = errors.New("network namespaces are there on Linux only")

// Options are the size of the cluster.
type Options struct {
	Relays, Users int
	Pairs         int
	Bin           string
	Disk          Disk
	Before        bool
	Memory        bool
}

// Possible returns why it is not.
func Possible() error { return errLinux }

// Can returns why it cannot.
func Can(*drill.Scenario) error { return errLinux }

// Lab is never made.
type Lab struct{ drill.Target }

// Start returns why it cannot.
func Start(context.Context, Options) (*Lab, error) { return nil, errLinux }

// Close does nothing.
func (*Lab) Close() error { return nil }

// Replace returns why it cannot.
func (*Lab) Replace(string, string) error { return errLinux }

// PID returns why it cannot.
func (*Lab) PID(string) (int, error) { return 0, errLinux }

func haveDiskTools() error { return errLinux }

// Clean finds nothing.
func Clean(context.Context) ([]string, error) { return nil, errLinux }

// Socket names none.
func (*Lab) Socket(string) string { return "" }

// Directory is none.
func (*Lab) Directory() (d Directory) { return d }

// Manage returns why it cannot.
func (*Lab) Manage(string, ...string) (*exec.Cmd, error) { return nil, errLinux }

// Spawn returns why it cannot.
func (*Lab) Spawn(*exec.Cmd) error { return errLinux }

// SaveLogs does nothing.
func (*Lab) SaveLogs(string) error { return nil }
