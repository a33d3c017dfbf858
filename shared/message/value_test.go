package message

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
)

// node is an IMAP value: NIL, text, or a list.
type node struct {
	null   bool
	isList bool
	text   string
	list   []node
}

func (n node) String() string {
	switch {
	case n.null:
		return "NIL"
	case n.isList:
		s := make([]string, len(n.list))
		for i := range n.list {
			s[i] = n.list[i].String()
		}
		return "(" + strings.Join(s, " ") + ")"
	}
	return strconv.Quote(n.text)
}

func (n node) equal(m node) bool {
	if n.null != m.null || n.isList != m.isList || n.text != m.text || len(n.list) != len(m.list) {
		return false
	}
	for i := range n.list {
		if !n.list[i].equal(m.list[i]) {
			return false
		}
	}
	return true
}

// readResponse reads a response line with its literals. Text that is not a
// value list, as in OK responses, comes as atoms.
func readResponse(r *bufio.Reader) ([]node, error) {
	n, err := readList(r, '\n')
	return n.list, err
}

func readList(r *bufio.Reader, end byte) (node, error) {
	n := node{isList: true}
	for {
		c, err := r.ReadByte()
		if err != nil {
			return n, err
		}
		var item node
		switch c {
		case ' ', '\r':
			continue
		case end:
			return n, nil
		case '(':
			item, err = readList(r, ')')
		case '"':
			item, err = readQuoted(r)
		case '{', '~':
			item, err = readLiteral(r)
		default:
			r.UnreadByte() //nolint:errcheck // a byte was just read
			item, err = readAtom(r, end)
		}
		if err != nil {
			return n, err
		}
		n.list = append(n.list, item)
	}
}

func readQuoted(r *bufio.Reader) (n node, err error) {
	var b []byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return n, err
		}
		switch c {
		case '"':
			return node{text: string(b)}, nil
		case '\\':
			if c, err = r.ReadByte(); err != nil {
				return n, err
			}
		case '\n':
			return n, errors.New("line end in quoted string")
		}
		b = append(b, c)
	}
}

func readLiteral(r *bufio.Reader) (n node, err error) {
	s, err := r.ReadString('\n')
	if err != nil {
		return n, err
	}
	size, err := strconv.Atoi(strings.Trim(s, "{}+\r\n"))
	if err != nil {
		return n, err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(r, b)
	return node{text: string(b)}, err
}

func readAtom(r *bufio.Reader, end byte) (n node, err error) {
	var b []byte
	brackets := 0
	for {
		c, err := r.ReadByte()
		if err != nil {
			return n, err
		}
		if c == '[' {
			brackets++
		}
		if c == ']' {
			brackets--
		}
		if brackets <= 0 && (c == ' ' || c == ')' || c == '(') || c == '\r' || c == '\n' || c == end {
			r.UnreadByte() //nolint:errcheck // a byte was just read
			if string(b) == "NIL" {
				return node{null: true}, nil
			}
			if len(b) == 0 {
				return n, fmt.Errorf("unexpected %q", c)
			}
			return node{text: string(b)}, nil
		}
		b = append(b, c)
	}
}

func parseNode(t testing.TB, s []byte) node {
	t.Helper()
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(s), strings.NewReader("\n")))
	list, err := readResponse(r)
	if err != nil || len(list) != 1 {
		t.Fatalf("%q: not one value: %v", s, err)
	}
	return list[0]
}

// foldBody puts into upper case what compares without case in a body
// structure (RFC 2045 5.1, 6.1).
func foldBody(n node) {
	if !n.isList || len(n.list) == 0 {
		return
	}
	up := func(i int) {
		if i < len(n.list) {
			n.list[i].text = strings.ToUpper(n.list[i].text)
		}
	}
	foldParams := func(i int) {
		if i < len(n.list) {
			for j := 0; j < len(n.list[i].list); j += 2 {
				pair := n.list[i].list[j : j+2]
				pair[0].text = strings.ToUpper(pair[0].text)
				if pair[0].text == "CHARSET" { // RFC 2046 4.1.2
					pair[1].text = strings.ToUpper(pair[1].text)
				}
			}
		}
	}
	children := 0
	for children < len(n.list) && n.list[children].isList {
		foldBody(n.list[children])
		children++
	}
	if children > 0 {
		up(children)
		foldParams(children + 1)
		return
	}
	up(0)
	up(1)
	foldParams(2)
	up(5)
	if n.list[0].text == "MESSAGE" && n.list[1].text == "RFC822" && len(n.list) > 8 {
		foldBody(n.list[8])
	}
}
