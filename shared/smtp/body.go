package smtp

import (
	"bytes"
	"encoding/binary"
)

// inspection is what a look over message octets finds.
type inspection struct {
	bare     bool // a CR without LF or an LF without CR
	nul      bool
	eightBit bool
	dots     int // lines that begin with a dot
}

// inspector looks over the octets of a message that come in pieces. It goes
// line by line and block by block, never octet by octet.
type inspector struct {
	inspection
	cr, lf  int  // CR, and LF that follow a CR
	last    byte // last octet of the piece before
	started bool
}

// add looks over the next piece.
func (s *inspector) add(b []byte) {
	if len(b) == 0 {
		return
	}
	if b[0] == '.' && (!s.started || s.last == '\n') {
		s.dots++
	}
	for rest := b; ; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		prev := s.last
		if i > 0 {
			prev = rest[i-1]
		}
		if prev == '\r' {
			s.lf++
		} else {
			s.bare = true
		}
		s.last = '\n'
		rest = rest[i+1:]
		if len(rest) > 0 && rest[0] == '.' {
			s.dots++
		}
	}
	s.started, s.last = true, b[len(b)-1]
	s.cr += bytes.Count(b, crByte)
	s.nul = s.nul || bytes.IndexByte(b, 0) >= 0
	s.eightBit = s.eightBit || hasEightBit(b)
}

// end returns what was found. Every LF that follows a CR has one of its own,
// so a CR too many is a bare one.
func (s *inspector) end() inspection {
	s.bare = s.bare || s.cr != s.lf
	return s.inspection
}

var (
	crByte = []byte{'\r'}
	crlf   = []byte("\r\n")
)

// hasEightBit reports whether b holds an octet above 127.
func hasEightBit(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 32 {
		v := binary.LittleEndian.Uint64(b) | binary.LittleEndian.Uint64(b[8:]) |
			binary.LittleEndian.Uint64(b[16:]) | binary.LittleEndian.Uint64(b[24:])
		if v&high != 0 {
			return true
		}
		b = b[32:]
	}
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// normalizedLen is the length of b once each bare CR or LF is CRLF.
func normalizedLen(b []byte) int {
	pairs := bytes.Count(b, crlf)
	return len(b) + bytes.Count(b, crByte) + bytes.Count(b, []byte{'\n'}) - 2*pairs
}

// appendNormalized appends b with each bare CR or LF as CRLF.
func appendNormalized(dst, b []byte) []byte {
	for len(b) > 0 {
		i := bytes.IndexAny(b, "\r\n")
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(append(dst, b[:i]...), '\r', '\n')
		if b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n' {
			i++
		}
		b = b[i+1:]
	}
	return dst
}

// headerLen is the length of the header block of a message with CRLF line
// ends: up to its empty line, or up to the first line that is no field and no
// continuation of one. It stops looking past limit.
func headerLen(msg []byte, limit int) int {
	for off := 0; ; {
		line := msg[off:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		if off > limit || len(line) == 0 || !isHeaderLine(line) {
			return off
		}
		off += len(line)
	}
}

func isHeaderLine(line []byte) bool {
	if line[0] == ' ' || line[0] == '\t' {
		return true
	}
	for i, c := range line {
		if c == ':' {
			return i > 0
		}
		if c <= ' ' || c >= 0x7f {
			return bytes.HasPrefix(line, []byte("From ")) // as some clients begin a message
		}
	}
	return true // one endless line: no telling where it ends
}
