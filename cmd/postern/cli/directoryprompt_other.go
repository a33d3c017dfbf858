//go:build !linux

package cli

import "io"

// prompt asks for a password on the terminal, which this system's is not known
// how to do.
func prompt(io.Reader, io.Writer) (string, error) {
	return "", usagef("--password-prompt is not for this system: use --password-stdin")
}
