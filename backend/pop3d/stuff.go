package pop3d

import (
	"bufio"
	"bytes"
	"errors"
)

// errEnough ends a stream when TOP has its lines.
var errEnough = errors.New("enough lines")

// stuffer writes a message with a dot before each line that begins with one
// (RFC 1939 section 3), and stops after lines lines of body unless lines is
// negative. The message has CRLF line ends only, in pieces of any length.
type stuffer struct {
	w      *bufio.Writer
	start  bool // at the beginning of a line
	header bool
	blank  int // octets of the line so far while still in the header
	lines  int
}

func (s *stuffer) write(b []byte) error {
	for len(b) > 0 {
		if s.start {
			if !s.header && s.lines == 0 {
				return errEnough
			}
			if b[0] == '.' {
				s.w.WriteByte('.')
			}
			s.start, s.blank = false, 0
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			s.blank += len(b)
			_, err := s.w.Write(b)
			return err
		}
		s.blank += i + 1
		if _, err := s.w.Write(b[:i+1]); err != nil {
			return err
		}
		b = b[i+1:]
		s.start = true
		switch {
		case s.header:
			s.header = s.blank != len("\r\n")
		case s.lines > 0:
			s.lines--
		}
	}
	return nil
}

func (s *stuffer) end() error {
	if !s.start {
		s.w.WriteString("\r\n")
	}
	_, err := s.w.WriteString(".\r\n")
	return err
}
