package imapd

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// A session can go on at another replica, when its proxy has said with ID that
// it can do that ("x-resume" "1"). Instead of BYE such a session ends with
//
//	* OK [XRESUME state] text
//
// and the proxy logs in at the replica that serves and gives it the state as the
// first command, tag XRESUME state. Commands without a tagged answer before the
// end have not been done, and are given to the other replica again.
//
// A replica that crashes says nothing any more. So to a proxy that has said with ID
// that it keeps states ("x-waiting" "1") a session tells its own beforehand: in IDLE
// whenever it has said all there is to say, and after some seconds without a command:
//
//	* OK [XWAITING state] text
//
// It holds until the next response of any other kind, if no command but IDLE is given,
// which changes nothing: with it the proxy goes on elsewhere as above.

const (
	// maxResume is the longest state, in octets; in base64 it fits into a line.
	maxResume = 32 << 10
	// maxWaiting is the longest that is told beforehand: a proxy keeps it for each
	// session that waits. A mailbox without holes takes some 20 octets.
	maxWaiting    = 2 << 10
	resumeVersion = 1
)

// What a state's flags say.
const (
	resumeCondstore = 1 << iota
	resumeQresync
	resumeRev2
	resumeUTF8
	resumeSelected
)

// offered reports whether the session's end can be another one's beginning.
func (s *session) offered() bool { return s.resumes && s.account != nil && !s.done }

// handOn tells the proxy how to go on elsewhere. It returns false when it cannot.
func (s *session) handOn(leader string) bool {
	if !s.offered() {
		return false
	}
	state := s.state(maxResume)
	if state == nil {
		return false
	}
	text := "This replica does not serve now"
	if leader != "" {
		text += "; leader=" + leader
	}
	s.sayState("XRESUME", state, text)
	return true
}

// tellState tells the proxy how to go on should this replica end without a word.
func (s *session) tellState() {
	if !s.keeps || s.account == nil {
		return
	}
	if state := s.state(maxWaiting); state != nil {
		s.sayState("XWAITING", state, "Waits")
	}
}

func (s *session) sayState(code string, state []byte, text string) {
	b := append(append(append(s.w.B, "* OK ["...), code...), ' ')
	b = base64.StdEncoding.AppendEncode(b, state)
	s.w.B = append(append(append(b, "] "...), text...), "\r\n"...)
}

// state is what another replica needs to go on; nil when it takes more than most
// octets.
func (s *session) state(most int) []byte {
	flags := byte(0)
	for bit, on := range map[byte]bool{
		resumeCondstore: s.condstore, resumeQresync: s.qresync, resumeRev2: s.rev2, resumeUTF8: s.utf8, resumeSelected: s.view != nil,
	} {
		if on {
			flags |= bit
		}
	}
	b := binary.AppendUvarint([]byte{resumeVersion, flags}, uint64(len(s.saved)))
	for _, r := range s.saved {
		if b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(r.Start)), uint64(r.Stop)); len(b) > most {
			return nil
		}
	}
	if s.view == nil {
		return b
	}
	picture := s.view.Picture(most - len(b))
	if picture == nil {
		return nil
	}
	return append(b, picture...)
}

// resumed is a state, decoded.
type resumed struct {
	flags   byte
	saved   []imapwire.Range
	picture []byte
}

var errState = errors.New("not a state of a session")

func decodeState(b []byte) (r resumed, err error) {
	if len(b) < 2 || len(b) > maxResume || b[0] != resumeVersion || b[1] >= resumeSelected<<1 {
		return r, errState
	}
	r.flags, b = b[1], b[2:]
	number := func() uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > math.MaxUint32 {
			err = errState
			return 0
		}
		b = b[k:]
		return n
	}
	last := uint64(0)
	for n := number(); n > 0 && err == nil; n-- {
		start, stop := number(), number()
		if start <= last || stop < start {
			return r, errState
		}
		last = stop
		r.saved = append(r.saved, imapwire.Range{Start: uint32(start), Stop: uint32(stop)})
	}
	if selected := r.flags&resumeSelected != 0; selected != (len(b) > 0) {
		return r, errState
	}
	r.picture = b
	return r, err
}

// resume is XRESUME: the session goes on where another replica has ended it. What
// has changed since then is told with the next command.
func (s *session) resume() error {
	p := &s.p
	p.SP()
	text := p.Until('\r')
	if err := p.Err(); err != nil {
		return err
	}
	if !s.resumes || !s.fresh {
		return bad("A session resumes at its beginning")
	}
	state := s.base64(text)
	if state == nil {
		return bad("Not base64")
	}
	r, err := decodeState(state)
	if err != nil {
		return bad(err.Error())
	}
	if r.flags&resumeSelected != 0 {
		v, err := s.account.Resume(s.ctx, r.picture)
		if errors.Is(err, mailbox.ErrPicture) {
			return no("CANNOT", "The mailbox is another one")
		}
		if err != nil {
			return err
		}
		s.view, s.behind = v, true
	}
	s.condstore, s.qresync = r.flags&resumeCondstore != 0, r.flags&resumeQresync != 0
	s.rev2, s.utf8 = r.flags&resumeRev2 != 0, r.flags&resumeUTF8 != 0
	s.saved = r.saved
	return nil
}
