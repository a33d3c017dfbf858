package mailbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
)

// scratch is the folder in which a prober changes flags.
const scratch = "Drill"

// Prober is a user at work: one session that reads the state of the inbox and
// changes a flag in turn, and begins again by the next relay when it breaks. One
// that is Idle waits for news of the inbox; its answers are its logins, and those to
// Renew.
type Prober struct {
	Access *Access
	User   User
	Every  time.Duration // between an answer and the next command
	First  int           // door of the first login
	Idle   bool

	renew atomic.Pointer[chan struct{}] // of a session that waits

	mu      sync.Mutex
	answers []time.Time
	errors  []time.Time
	last    string // the last error
	faults  []string
	was     Mark
}

// maxFaults bounds what a prober remembers.
const maxFaults = 20

// Run works until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	pause := afterError
	for n := p.First; ctx.Err() == nil; n++ {
		in, err := p.session(ctx, n)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		if len(p.errors) < maxAnswers {
			p.errors = append(p.errors, time.Now())
		}
		p.last = err.Error()
		p.mu.Unlock()
		pause = min(2*pause, maxPause)
		if in || !p.Idle {
			pause = afterError
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

const (
	// afterError is the pause before the next login, of which up to half is left
	// out at random. For a user who only waits for news it grows to maxPause with
	// each login that fails, as it does in users' programs.
	afterError = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	// maxAnswers bounds the times that a prober keeps.
	maxAnswers = 2_000_000
)

// session logs in and works until something fails; in says whether it was let in.
func (p *Prober) session(ctx context.Context, n int) (in bool, err error) {
	s, err := p.Access.login(ctx, n, p.User)
	if err != nil {
		return false, err
	}
	defer s.drop()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if p.Idle {
		return p.idle(s)
	}
	return true, p.work(ctx, s)
}

// idle waits for news of the inbox until the connection ends.
func (p *Prober) idle(s *session) (in bool, err error) {
	s.more()
	if _, err := s.Select("INBOX", nil).Wait(); err != nil {
		return false, fmt.Errorf("select by %s: %w", p.User.Login, err)
	}
	renew := make(chan struct{}, 1)
	defer p.renew.Store(nil)
	for {
		c, err := s.Idle()
		if err != nil {
			return in, fmt.Errorf("idle of %s: %w", p.User.Login, err)
		}
		in = true
		p.answered()
		s.watch.Stop()
		p.renew.Store(&renew)
		end := make(chan error, 1)
		go func() { end <- c.Wait() }()
		select {
		case err = <-end:
			err = errors.Join(errEnded, err)
		case <-renew:
			s.more()
			err = errors.Join(c.Close(), <-end)
		}
		if err != nil {
			return true, fmt.Errorf("idle of %s: %w", p.User.Login, err)
		}
	}
}

// Renew has a session that waits end its IDLE and begin it again, as users' programs
// do now and then. One that has logged in only since then has no need to.
func (p *Prober) Renew() {
	if renew := p.renew.Load(); renew != nil {
		select {
		case *renew <- struct{}{}:
		default:
		}
	}
}

// errEnded: a session that waits has no end of its own.
var errEnded = errors.New("the connection has ended")

func (p *Prober) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.answers) < maxAnswers {
		p.answers = append(p.answers, time.Now())
	}
}

// work asks and changes in turn until something fails.
func (p *Prober) work(ctx context.Context, s *session) (err error) {
	if err := s.prepare(); err != nil {
		return err
	}
	for i := 0; ctx.Err() == nil; i++ {
		s.more()
		if i%2 == 0 {
			op := imap.StoreFlagsAdd
			if i%4 == 0 {
				op = imap.StoreFlagsDel
			}
			flags := &imap.StoreFlags{Op: op, Flags: []imap.Flag{imap.FlagFlagged}, Silent: true}
			err = s.Store(imap.SeqSetNum(1), flags, nil).Close()
		} else {
			var st *imap.StatusData
			if st, err = s.Status("INBOX", &imap.StatusOptions{UIDNext: true, UIDValidity: true}).Wait(); err == nil {
				p.compare(Mark{st.UIDNext, st.UIDValidity})
			}
		}
		if err != nil {
			return fmt.Errorf("session of %s: %w", p.User.Login, err)
		}
		p.answered()
		select {
		case <-ctx.Done():
		case <-time.After(p.Every):
		}
	}
	return nil
}

// prepare opens a folder with a message of its own.
func (s *session) prepare() error {
	s.more()
	sel, err := s.Select(scratch, nil).Wait()
	if err != nil {
		// Another session of the user may have been first.
		created := s.Create(scratch, nil).Wait()
		if sel, err = s.Select(scratch, nil).Wait(); err != nil {
			return fmt.Errorf("select of %s: %w", scratch, errors.Join(created, err))
		}
	}
	if sel.NumMessages > 0 {
		return nil
	}
	s.more()
	if err := s.append(); err != nil {
		return fmt.Errorf("append to %s: %w", scratch, err)
	}
	_, err = s.Select(scratch, nil).Wait()
	return err
}

func (s *session) append() error {
	text := "From: drill@drill.test\r\nSubject: a drill changes the flags of this message\r\n\r\nIt can be deleted.\r\n"
	c := s.Append(scratch, int64(len(text)), nil)
	if _, err := strings.NewReader(text).WriteTo(c); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	_, err := c.Wait()
	return err
}

// compare notes a UIDNEXT that went back or a UIDVALIDITY that changed.
func (p *Prober) compare(now Mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.was; was.Validity != 0 && (now.UIDNext < was.UIDNext || now.Validity != was.Validity) && len(p.faults) < maxFaults {
		p.faults = append(p.faults, fmt.Sprintf("%s: UIDNEXT %d after %d, UIDVALIDITY %d after %d",
			p.User.Login, now.UIDNext, was.UIDNext, now.Validity, was.Validity))
	}
	p.was = now
}

// Answers are the times of the answers and of the errors, the last error, and
// what was wrong in answers.
func (p *Prober) Answers() (answers, errors []time.Time, last string, faults []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.answers...), append([]time.Time(nil), p.errors...), p.last, append([]string(nil), p.faults...)
}
