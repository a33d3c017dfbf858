package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/metrics"
)

// back is the backend's side of a session, logged in.
type back struct {
	conn net.Conn
	r    *bufio.Reader // holds what came behind the answer to the login
	node string
	pair string
	stay context.Context // ends when another node has come to serve
	// text is the backend's answer to the login behind its status word: for
	// IMAP "[CAPABILITY ...] ...".
	text string
}

// open finds the replica that serves the user's pair, and logs in there as the
// user, to go on with a session if there is a state of one. It goes on trying
// until Config.Within is over: a failover takes less.
func (cfg *Config) open(ctx context.Context, user User, c Client, state string) (*back, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Within-cfg.Within/10)
	defer cancel()
	var last error
	wait := 20 * time.Millisecond
	moved := false
	for {
		news := cfg.Routes.While(user.Pair, "")
		asked := map[string]bool{}
		prefer := ""
		for n := next(cfg.Routes.Candidates(user.Pair), asked, prefer); n != nil; n = next(cfg.Routes.Candidates(user.Pair), asked, prefer) {
			asked[n.Name] = true
			b, hint, err := cfg.openOn(ctx, n, user, c, state)
			if err == nil {
				b.pair = user.Pair
				return b, nil
			}
			last = fmt.Errorf("%s: %w", n.Name, err)
			if errors.Is(err, errNoResume) || errors.Is(err, errLimit) {
				return nil, last
			}
			if pair := nameIn(hint, "pair="); pair != "" {
				if state != "" { // the other pair knows nothing of the session
					return nil, fmt.Errorf("%w: %w", errNoResume, last)
				}
				if cfg.Moved != nil {
					cfg.Moved(user.Account)
				}
				if !moved && len(cfg.Routes.Candidates(pair)) > 0 {
					moved, user.Pair = true, pair
					metrics.UserRedirects.With(cfg.Protocol.String()).Inc()
					asked, prefer = map[string]bool{}, ""
					continue
				}
			}
			if prefer = nameIn(hint, "leader="); prefer != "" {
				cfg.Routes.Redirect(user.Pair, prefer)
			}
			if ctx.Err() != nil {
				return nil, last
			}
		}
		if last == nil {
			last = fmt.Errorf("no node known for pair %q", user.Pair)
		}
		select {
		case <-ctx.Done():
			return nil, last
		case <-news.Done():
		case <-time.After(wait):
			wait = min(2*wait, 300*time.Millisecond)
		}
	}
}

// next chooses the node to ask: the preferred one, else the first not asked.
func next(nodes []route.Node, asked map[string]bool, prefer string) *route.Node {
	var first *route.Node
	for i := range nodes {
		n := &nodes[i]
		if asked[n.Name] {
			continue
		}
		if n.Name == prefer {
			return n
		}
		if first == nil {
			first = n
		}
	}
	return first
}

var (
	errNotServing = errors.New("not serving")
	errNoResume   = errors.New("the session cannot go on")
	errLimit      = errors.New("the user has too many sessions")
)

// openOn logs in on one node. hint is what it says when it does not take the
// login: it may name who to ask instead.
func (cfg *Config) openOn(ctx context.Context, n *route.Node, user User, c Client, state string) (b *back, hint string, err error) {
	addr := n.Addr[cfg.Protocol.service()]
	if addr == "" {
		return nil, "", fmt.Errorf("no %s address known", cfg.Protocol)
	}
	stay := cfg.Routes.While(user.Pair, n.Name)
	dctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	defer context.AfterFunc(stay, cancel)()
	conn, err := cfg.Dial(dctx, "tcp", addr)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if cfg.BackendTLS != nil {
		tc := tls.Client(conn, cfg.BackendTLS)
		if err := tc.HandshakeContext(dctx); err != nil {
			return nil, "", err
		}
		conn = tc
	}
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	b = &back{conn: conn, r: bufio.NewReaderSize(conn, 4<<10), node: n.Name, stay: stay}
	defer context.AfterFunc(stay, func() { conn.SetDeadline(past) })()
	if cfg.Protocol == POP3 {
		hint, err = b.loginPOP3(user, state)
	} else {
		hint, err = b.loginIMAP(user, c, state)
	}
	if err != nil {
		return nil, hint, err
	}
	conn.SetDeadline(time.Time{})
	return b, "", nil
}

// past ends what waits for a connection.
var past = time.Unix(1, 0)

// grace is the time that a session has after another replica has come to serve:
// at a hand-over its own replica says goodbye.
const grace = time.Second

// leave ends the session's reads and writes with its replica when another one has
// come to serve. Its result takes that back.
func (b *back) leave() (stop func() bool) {
	return context.AfterFunc(b.stay, func() {
		time.AfterFunc(grace, func() { b.conn.SetDeadline(past) })
	})
}

// loginIMAP reads the greeting and logs in with one write, in which it gives the
// state of a session that is to go on.
func (b *back) loginIMAP(user User, c Client, state string) (hint string, err error) {
	secured := "no"
	if c.TLS != nil {
		secured = "yes"
	}
	text := fmt.Appendf(nil, "P0 ID (\"x-originating-ip\" \"%s\" \"x-originating-port\" \"%d\" \"x-tls\" \"%s\" \"x-resume\" \"1\" \"x-waiting\" \"1\")\r\nP1 AUTHENTICATE EXTERNAL %s\r\n",
		c.Addr.Addr(), c.Addr.Port(), secured, identity(user.Account))
	if state != "" {
		text = fmt.Appendf(text, "P2 XRESUME %s\r\n", state)
	}
	if _, err = b.conn.Write(text); err != nil {
		return "", err
	}
	for range 50 {
		line, err := b.line()
		if err != nil {
			return "", err
		}
		word, rest, _ := strings.Cut(line, " ")
		status, text, _ := strings.Cut(rest, " ")
		switch {
		case word == "*" && strings.EqualFold(status, "BYE"):
			return text, fmt.Errorf("%w: %s", errNotServing, text)
		case word == "P1" && strings.EqualFold(status, "OK"):
			b.text = text
			if state == "" {
				return "", nil
			}
		case word == "P2" && strings.EqualFold(status, "OK"):
			return "", nil
		case word == "P2":
			return "", fmt.Errorf("%w: %s", errNoResume, text)
		case word == "P1" && strings.HasPrefix(text, "[LIMIT]"):
			return "", fmt.Errorf("%w: %s", errLimit, text)
		case word == "P1":
			return text, fmt.Errorf("%w: %s", errNotServing, text)
		}
	}
	return "", errors.New("backend does not answer the login")
}

// loginPOP3 reads the greeting and logs in with one write, as loginIMAP does. A
// replica of an older release refuses XRESUME, and its session ends with it.
func (b *back) loginPOP3(user User, state string) (hint string, err error) {
	_, err = fmt.Fprintf(b.conn, "XRESUME %d\r\n%sAUTH EXTERNAL %s\r\n", strings.Count(state, "\n"), state, identity(user.Account))
	if err != nil {
		return "", err
	}
	for i := range 3 { // the greeting, and two answers
		line, err := b.line()
		if err != nil {
			return "", err
		}
		status, text, _ := strings.Cut(line, " ")
		if b.text = line; status == "+OK" || i == 1 && state == "" {
			continue
		}
		switch {
		case i == 1, strings.HasPrefix(text, "[XRESUME]"), strings.HasPrefix(text, "[IN-USE]") && state != "":
			return "", fmt.Errorf("%w: %s", errNoResume, text)
		case strings.HasPrefix(text, "[IN-USE]"):
			return "", nil
		}
		return text, fmt.Errorf("%w: %s", errNotServing, text)
	}
	return "", nil
}

func (b *back) line() (string, error) {
	line, err := b.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// identity is the authorization identity of SASL EXTERNAL as an initial
// response.
func identity(account string) string { return base64.StdEncoding.EncodeToString([]byte(account)) }

// nameIn finds the name behind a word in a backend's text: "leader=NODE", or
// "pair=PAIR" of a user who has moved.
func nameIn(text, word string) string {
	_, after, ok := strings.Cut(text, word)
	if !ok {
		return ""
	}
	end := strings.IndexFunc(after, func(r rune) bool {
		return !(r == '-' || r == '.' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	})
	if end >= 0 {
		after = after[:end]
	}
	return strings.TrimRight(after, ".")
}
