package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// prompt asks for a password on the terminal, without showing it, twice.
func prompt(in io.Reader, out io.Writer) (string, error) {
	f, ok := in.(*os.File)
	if !ok {
		return "", usagef("--password-prompt needs a terminal: use --password-stdin")
	}
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", usagef("--password-prompt needs a terminal: use --password-stdin")
	}
	hidden := *old
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return "", err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }() // nothing else can be done
	r := bufio.NewReader(f)
	var lines [2]string
	for i, what := range []string{"Password: ", "Once more: "} {
		fmt.Fprint(out, what)
		line, err := r.ReadString('\n')
		fmt.Fprintln(out)
		if err != nil {
			return "", err
		}
		lines[i] = strings.TrimRight(line, "\r\n")
	}
	if lines[0] != lines[1] || lines[0] == "" {
		return "", usagef("the passwords differ, or are empty")
	}
	return lines[0], nil
}
