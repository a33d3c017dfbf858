package bench

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxUsers bounds a file of users.
const maxUsers = 1_000_000

// ReadUsers reads a file with a user a line: login, password and address, with
// white space between them. Empty lines and those that begin with # are passed
// over.
func ReadUsers(r io.Reader) ([]User, error) {
	var users []User
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 0 || f[0][0] == '#':
			continue
		case len(f) != 3:
			return nil, fmt.Errorf("line %d: want login, password and address", n)
		case !printable(f[0]) || !printable(f[1]):
			return nil, fmt.Errorf("line %d: login or password is not of printable ASCII", n)
		case !strings.Contains(f[2], "@"):
			return nil, fmt.Errorf("line %d: %q is no address", n, f[2])
		case len(users) == maxUsers:
			return nil, fmt.Errorf("line %d: more than %d users", n, maxUsers)
		}
		users = append(users, User{Login: f[0], Password: f[1], Address: f[2]})
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return nil, errors.New("no user in it")
	}
	return users, nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
