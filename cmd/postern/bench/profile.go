package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Limits of a Profile.
const (
	maxRate     = 20_000
	maxSenders  = 2000
	maxSessions = 20_000
	minSize     = 500
	maxSize     = 10 << 20
	maxTime     = 24 * time.Hour
	minPoll     = 10 * time.Millisecond
)

// Profile is the load.
type Profile struct {
	Deliveries float64       `json:"deliveries_per_second"` // 0: as fast as Senders are answered; below 0: none
	Senders    int           `json:"senders"`               // SMTP connections that are kept open
	Size       int           `json:"size"`                  // octets of a message
	Recipients int           `json:"recipients"`            // of a message
	Sessions   int           `json:"sessions"`              // IMAP sessions that are open at the same time
	Poll       time.Duration `json:"-"`                     // of each session; 0: they are open and do nothing
	Read       bool          `json:"read"`                  // a poll that finds new mail fetches the newest message
	For        time.Duration `json:"-"`                     // how long the load is measured
	MaxBytes   int64         `json:"max_bytes"`             // octets that may be sent
	MaxErrors  float64       `json:"max_errors"`            // share of what is asked for that may fail
	Timeout    time.Duration `json:"-"`                     // of one answer
}

// Default is a small office on a small machine.
func Default() Profile {
	return Profile{
		Deliveries: 20, Senders: 16, Size: 10 << 10, Recipients: 1, Sessions: 100, Poll: 10 * time.Second, Read: true,
		For: 30 * time.Second, MaxBytes: 1 << 30, MaxErrors: 0.02, Timeout: 20 * time.Second,
	}
}

// Check says what is wrong with p.
func (p *Profile) Check() error {
	between := func(what string, v, low, high float64) error {
		if v >= low && v <= high {
			return nil
		}
		return fmt.Errorf("%s %v: want %v to %v", what, v, low, high)
	}
	err := errors.Join(
		between("deliveries", p.Deliveries, -1, maxRate),
		between("senders", float64(p.Senders), 1, maxSenders),
		between("sessions", float64(p.Sessions), 0, maxSessions),
		between("size", float64(p.Size), minSize, maxSize),
		between("recipients", float64(p.Recipients), 1, 1000),
		between("seconds", p.For.Seconds(), 1, maxTime.Seconds()),
		between("max-errors", p.MaxErrors, 0, 1),
		between("timeout in seconds", p.Timeout.Seconds(), 0.1, 600),
	)
	if err == nil && p.Poll != 0 {
		err = between("poll in seconds", p.Poll.Seconds(), minPoll.Seconds(), maxTime.Seconds())
	}
	if err != nil {
		return err
	}
	if want := p.Deliveries * p.For.Seconds() * float64(p.Size); want > float64(p.MaxBytes) {
		return fmt.Errorf("%.0f octets would be sent, more than --max-bytes %d allows", want, p.MaxBytes)
	}
	if p.Deliveries < 0 && p.Sessions == 0 {
		return errors.New("nothing to do: neither deliveries nor sessions")
	}
	return nil
}

// User is somebody whose mailbox the load may use.
type User struct{ Login, Password, Address string }

// Door is a listener of a relay.
type Door struct{ Name, Addr string }

// Target is the cluster.
type Target struct {
	SMTP  []Door      // MX ports
	IMAPS []Door      // IMAP with TLS from the first octet
	TLS   *tls.Config // of IMAPS; without a ServerName, that of each door's host
	Users []User
	Dial  func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (t *Target) check(p *Profile) error {
	switch {
	case len(t.Users) == 0:
		return errors.New("no users to send mail to")
	case p.Deliveries >= 0 && len(t.SMTP) == 0:
		return errors.New("no relay to send mail to")
	case p.Sessions > 0 && len(t.IMAPS) == 0:
		return errors.New("no relay to log in at")
	}
	return nil
}
