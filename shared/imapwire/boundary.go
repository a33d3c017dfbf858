package imapwire

import (
	"bytes"
	"errors"
)

// ErrSyntax says that a line is not the beginning of a command or response.
var ErrSyntax = errors.New("imapwire: syntax error")

// A Piece is a run of raw octets of a command or response.
type Piece struct {
	Bytes   []byte // valid until the next call that reads
	More    bool   // the line goes on in the next piece
	HasLit  bool   // the octets of Literal follow, then another piece
	Literal Literal
}

// A Command is the beginning of a client's command: its first line. While
// HasLit, the caller takes Literal.Size octets with Next, ReadFull or Discard
// and asks for the next piece with Rest. After a synchronising literal it does
// so only when the server has asked for the octets: if the server answers the
// command instead, the peer goes on with a new command.
type Command struct {
	Piece
	Tag  []byte
	Verb []byte // as written, "FETCH"; for UID commands the word behind UID
	UID  bool
}

// ReadCommand reads the first line of the next command. With ErrSyntax the
// line is in Bytes and has been taken; with ErrLineTooLong it has not.
func (r *Reader) ReadCommand() (Command, error) {
	r.Begin()
	line, err := r.Line()
	c := Command{Piece: Piece{Bytes: line}}
	if err != nil {
		return c, err
	}
	c.Literal, c.HasLit = CommandLiteral(line)
	var ok bool
	if c.Tag, c.Verb, c.UID, _, ok = SplitCommand(line); !ok {
		return c, ErrSyntax
	}
	return c, nil
}

// Rest reads the next piece of a command, behind a literal.
func (r *Reader) Rest() (Piece, error) {
	r.Drop()
	line, err := r.Line()
	p := Piece{Bytes: line}
	if err == nil {
		p.Literal, p.HasLit = CommandLiteral(line)
	}
	return p, err
}

// SplitCommand finds the tag and the verb at the beginning of a command and
// the offset of what follows the verb, a space or the line's end. The verb of
// "UID FETCH" is FETCH, with uid true. When only the tag is good, ok is false
// and tag is set.
func SplitCommand(line []byte) (tag, verb []byte, uid bool, rest int, ok bool) {
	i := 0
	for i < len(line) && isTagChar(line[i]) {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return nil, nil, false, i, false
	}
	tag = line[:i]
	verb, rest = word(line, i+1)
	if len(verb) == 3 && equalFold(verb, "UID") && rest < len(line) && line[rest] == ' ' {
		uid = true
		verb, rest = word(line, rest+1)
	}
	if len(verb) == 0 || rest == len(line) || (line[rest] != ' ' && line[rest] != '\r') {
		return tag, nil, false, rest, false
	}
	return tag, verb, uid, rest, true
}

// word returns the letters and digits of a command's name at i.
func word(line []byte, i int) ([]byte, int) {
	j := i
	for j < len(line) && (isAlpha(line[j]) || isDigit(line[j]) || line[j] == '-') {
		j++
	}
	return line[i:j], j
}

// ResponseKind tells the three kinds of responses apart.
type ResponseKind int

// The kinds of responses, RFC 9051 2.2.2.
const (
	Untagged     ResponseKind = iota // "* "
	Continuation                     // "+ "
	Tagged
)

// A Response is the beginning of a server's response. While More or HasLit,
// the caller takes the literal's octets and asks for more with RestOfResponse.
type Response struct {
	Piece
	Kind ResponseKind
	Tag  []byte // of a tagged one
	Num  uint32 // of "* 12 FETCH"; 0 without
	Name []byte // "OK", "FETCH", "CAPABILITY" as written; of a tagged one its status
	Text int    // offset in Bytes of what follows Name
}

// IsStatus reports whether r is OK, NO, BAD, BYE or PREAUTH: free text, which
// never announces a literal.
func (r *Response) IsStatus() bool {
	if r.Kind != Untagged {
		return true
	}
	for _, s := range [...]string{"OK", "NO", "BAD", "BYE", "PREAUTH"} {
		if equalFold(r.Name, s) {
			return true
		}
	}
	return false
}

// ReadResponse reads the beginning of the next response: its first line, or
// as much of a long one as the buffer holds. Lines have no limit here: they
// come in pieces. With ErrSyntax the line is in Bytes.
func (r *Reader) ReadResponse() (Response, error) {
	r.Begin()
	var resp Response
	p, err := r.piece()
	resp.Piece = p
	if err != nil {
		return resp, err
	}
	if !resp.split(r.size/2 - headerRoom) {
		return resp, ErrSyntax
	}
	if resp.IsStatus() {
		resp.HasLit, resp.Literal = false, Literal{}
	}
	return resp, nil
}

// RestOfResponse reads the next piece of a response. status says whether the
// response is one for which IsStatus holds.
func (r *Reader) RestOfResponse(status bool) (Piece, error) {
	r.Drop()
	p, err := r.piece()
	if status {
		p.HasLit, p.Literal = false, Literal{}
	}
	return p, err
}

// piece takes up to the end of the line, or what the buffer holds of it
// without a literal's header at its end.
func (r *Reader) piece() (Piece, error) {
	scanned := 0
	for {
		if i := bytes.IndexByte(r.buf[r.pos+scanned:r.end], '\n'); i >= 0 {
			p := Piece{Bytes: r.buf[r.pos : r.pos+scanned+i+1]}
			p.Literal, p.HasLit = ParseLiteral(p.Bytes)
			r.pos += len(p.Bytes)
			return p, nil
		}
		scanned = r.end - r.pos
		if scanned >= r.size/2 {
			p := Piece{Bytes: r.buf[r.pos : r.end-headerRoom], More: true}
			r.pos += len(p.Bytes)
			return p, nil
		}
		if err := r.fill(); err != nil {
			return Piece{}, unexpected(err, scanned > 0)
		}
	}
}

// split finds kind, number and name in the first limit octets: what is found
// must not depend on how a long line arrived.
func (r *Response) split(limit int) bool {
	b := r.Bytes[:min(len(r.Bytes), limit)]
	if len(b) >= 2 && b[0] == '+' {
		r.Kind, r.Text = Continuation, 1
		return b[1] == ' ' || b[1] == '\r'
	}
	i := 1
	if len(b) < 2 || b[0] != '*' {
		r.Kind = Tagged
		for i = 0; i < len(b) && isTagChar(b[i]); i++ {
		}
		r.Tag = b[:i]
	}
	if i == 0 || i >= len(b) || b[i] != ' ' {
		return false
	}
	i++
	if r.Kind == Untagged {
		j := i
		for j < len(b) && isDigit(b[j]) {
			j++
		}
		if j > i {
			n := saturate(b[i:j])
			if n > 1<<32-1 || j == len(b) || b[j] != ' ' {
				return false
			}
			r.Num, i = uint32(n), j+1
		}
	}
	r.Name, r.Text = word(b, i)
	return len(r.Name) > 0
}
