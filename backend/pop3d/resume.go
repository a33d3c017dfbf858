package pop3d

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// A session can go on at another replica, when its proxy has said XRESUME 0 before
// the login. It ends with
//
//	-ERR [XRESUME n] text
//
// and n lines of base64, the state. The proxy logs in at the replica that serves,
// and says XRESUME n with those lines before it does. Commands without an answer
// before the end have not been done, and are given to the other replica again.

const (
	// maxResume is the longest state, in octets.
	maxResume     = 512 << 10
	resumeVersion = 1
	resumeLine    = 600 // octets of a state in a line of base64
)

// handOn tells the proxy how to go on elsewhere. It returns false when it cannot.
func (s *session) handOn(leader string) bool {
	if !s.resumes || s.view == nil {
		return false
	}
	state := s.encode()
	if state == nil {
		return false
	}
	if ns := s.srv.serving.Lost(s.ctx); ns != nil && leader == "" {
		leader = ns.Leader
	}
	text := "this replica does not serve now"
	if leader != "" {
		text += "; leader=" + leader
	}
	s.conn.SetWriteDeadline(time.Now().Add(lastWrite))
	fmt.Fprintf(s.w, "-ERR [XRESUME %d] %s\r\n", (len(state)+resumeLine-1)/resumeLine, text)
	for len(state) > 0 {
		n := min(len(state), resumeLine)
		s.w.WriteString(base64.StdEncoding.EncodeToString(state[:n]))
		s.w.WriteString("\r\n")
		state = state[n:]
	}
	return true
}

// encode returns the state: what the maildrop was at login, what is marked, and the
// picture of the mailbox; nil when it is too long.
func (s *session) encode() []byte {
	b := appendDrop(make([]byte, 0, 16+4*len(s.drop)), s.drop)
	picture := s.view.Picture(maxResume - len(b))
	if len(b) > maxResume || picture == nil {
		return nil
	}
	return append(b, picture...)
}

func appendDrop(b []byte, drop []entry) []byte {
	b = binary.AppendUvarint(append(b, resumeVersion), uint64(len(drop)))
	last := uint32(0)
	for _, e := range drop {
		mark := uint64(0)
		if e.deleted {
			mark = 1
		}
		b = binary.AppendUvarint(b, uint64(e.uid-last)<<1|mark)
		b = binary.AppendUvarint(b, uint64(e.size))
		last = e.uid
	}
	return b
}

var errState = errors.New("not a state of a session")

// decodeState reads what encode has written, or what somebody else made up.
func decodeState(b []byte) (drop []entry, picture []byte, err error) {
	if len(b) < 2 || len(b) > maxResume || b[0] != resumeVersion {
		return nil, nil, errState
	}
	b = b[1:]
	number := func(most uint64) uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > most {
			err = errState
			return 0
		}
		b = b[k:]
		return n
	}
	count := number(uint64(len(b)))
	last := uint64(0)
	for range count {
		n, size := number(math.MaxUint32<<1|1), number(math.MaxInt64)
		last += n >> 1
		if err != nil || n>>1 == 0 || last > math.MaxUint32 {
			return nil, nil, errState
		}
		drop = append(drop, entry{uid: uint32(last), size: int64(size), deleted: n&1 != 0})
	}
	return drop, b, err
}

// restore shows what a session at another replica has shown.
func restore(ctx context.Context, acc *mailbox.Account, state []byte) (*mailbox.View, []entry, error) {
	drop, picture, err := decodeState(state)
	if err != nil {
		return nil, nil, err
	}
	view, err := acc.Resume(ctx, picture)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range drop {
		if _, ok := view.Seq(e.uid); !ok {
			view.Close()
			return nil, nil, errState
		}
	}
	return view, drop, nil
}

// resume is XRESUME: the proxy can take the session to another replica, and with
// lines, goes on with one.
func (s *session) resume(arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 0 || n > maxResume/resumeLine+1 {
		return refusal("XRESUME wants a number of lines")
	}
	var state []byte
	bad := error(nil)
	for range n {
		line, err := s.readLine()
		if err != nil && !isRefusal(err) {
			return err
		}
		b, decErr := base64.StdEncoding.DecodeString(line)
		if err != nil || decErr != nil || len(b) > resumeLine {
			bad = refusal("not a state of a session")
		}
		state = append(state, b...)
	}
	if bad != nil {
		return bad
	}
	s.resumes, s.state = true, state
	s.ok("")
	return nil
}
