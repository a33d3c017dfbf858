package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// ProcessState is the letter that the kernel gives for the state of a process,
// such as T for one that is stopped.
func ProcessState(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name of the program stands in brackets and may hold any octet.
	i := bytes.LastIndexByte(text, ')')
	if i < 0 || i+2 >= len(text) {
		return "", fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	return string(text[i+2]), nil
}

// directoryWait is how long a directory may be silent before it counts as away.
const directoryWait = 700 * time.Millisecond

// DirectorySilent asks an LDAP server for an anonymous bind. It returns an
// error when there is an answer.
func DirectorySilent(ctx context.Context, addr string, dial func(context.Context, string) (net.Conn, error)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, directoryWait)
	defer cancel()
	c, err := dial(ctx, addr)
	if err != nil {
		return "the directory takes no connection: " + err.Error(), nil
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	// RFC 4511: LDAPMessage 1, BindRequest version 3, no name, simple, no password.
	bind := []byte{0x30, 0x0c, 0x02, 0x01, 0x01, 0x60, 0x07, 0x02, 0x01, 0x03, 0x04, 0x00, 0x80, 0x00}
	if _, err := c.Write(bind); err != nil {
		return "the directory breaks the connection: " + err.Error(), nil
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	var ne net.Error
	switch {
	case err == nil:
		return "", errors.New("the directory answers")
	case errors.As(err, &ne) && ne.Timeout():
		return "the directory gives no answer to a bind", nil
	}
	return "the directory breaks the connection: " + err.Error(), nil
}

// DNSSilent asks a server for the root's name servers by a datagram. It returns
// an error when there is an answer.
func DNSSilent(ctx context.Context, addr string, dial func(context.Context, string) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, directoryWait)
	defer cancel()
	c, err := dial(ctx, addr)
	if err != nil {
		return fmt.Errorf("asking DNS: %w", err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	// RFC 1035 4.1: ID 1, a query with recursion, one question: the root, NS, IN.
	query := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	if _, err := c.Write(query); err != nil {
		return nil // refused at once: silent all the same
	}
	if _, err := c.Read(make([]byte, 512)); err == nil {
		return errors.New("DNS answers")
	}
	return nil
}
