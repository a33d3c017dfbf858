package expand

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// SRS rewrites the reverse-path of forwarded mail to an address of ours, so that
// the next host finds a sender that we may send for, and finds the way back for
// what returns to it. It is the Sender Rewriting Scheme as it is in use:
//
//	SRS0=HASH=DAY=domain=local@ours          of an address elsewhere
//	SRS1=HASH=first.domain==HASH=DAY=...     of somebody else's SRS0
//
// The hash is keyed, so nobody can send mail through us by inventing one; DAY
// lets it expire.
type SRS struct {
	Domain string // of the addresses made; one of ours
	// Keys sign, the first one, and verify, all of them. At least 16 octets.
	Keys   [][]byte
	MaxAge time.Duration // how long what returns is taken, 21 days
	Now    func() time.Time
}

const (
	srsHash = 6    // characters of base32: 30 bits, since local parts are short
	srsDays = 1024 // after which DAY repeats
)

var srsAlphabet = base32.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567").WithPadding(base32.NoPadding)

func (s *SRS) check() error {
	if s.Domain == "" || len(s.Keys) == 0 {
		return errors.New("expand: SRS needs a domain and a key")
	}
	for _, k := range s.Keys {
		if len(k) < 16 {
			return fmt.Errorf("expand: a key for SRS has %d octets, at least 16 are needed", len(k))
		}
	}
	if s.MaxAge <= 0 {
		s.MaxAge = 21 * 24 * time.Hour
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	return nil
}

func (s *SRS) owns(domain string) bool { return strings.EqualFold(domain, s.Domain) }

// isSRS reports whether a local part looks like an address that SRS made.
func isSRS(local string) bool {
	return len(local) > 5 && strings.EqualFold(local[:3], "SRS") && (local[3] == '0' || local[3] == '1') && strings.IndexByte("=-+", local[4]) >= 0
}

// Forward returns the address of ours that stands for a. ok is false when it
// would be too long for a mail address.
func (s *SRS) Forward(a mail.Address) (out mail.Address, ok bool) {
	local := ""
	switch {
	case isSRS(a.Local) && a.Local[3] == '0':
		rest := strings.ToLower(a.Domain) + "=" + a.Local[4:]
		local = "SRS1=" + s.sign(s.Keys[0], rest) + "=" + rest
	case isSRS(a.Local):
		if _, rest, found := strings.Cut(a.Local[5:], "="); found { // keep the first host, sign anew
			local = "SRS1=" + s.sign(s.Keys[0], rest) + "=" + rest
			break
		}
		fallthrough
	default:
		rest := s.day() + "=" + strings.ToLower(a.Domain) + "=" + a.Local
		local = "SRS0=" + s.sign(s.Keys[0], rest) + "=" + rest
	}
	out = mail.Address{Local: local, Domain: s.Domain}
	return out, len(local) <= mail.MaxLocalPart
}

// Reverse returns the address that one of ours stands for.
func (s *SRS) Reverse(a mail.Address) (mail.Address, error) {
	if !isSRS(a.Local) {
		return mail.Address{}, errors.New("not made by SRS")
	}
	hash, rest, ok := strings.Cut(a.Local[5:], "=")
	if !ok || !s.signed(hash, rest) {
		return mail.Address{}, errors.New("signature does not fit")
	}
	var out mail.Address
	if a.Local[3] == '1' {
		host, local, ok := strings.Cut(rest, "=")
		if !ok || local == "" {
			return out, errors.New("not complete")
		}
		out = mail.Address{Local: "SRS0" + local, Domain: host}
	} else {
		f := strings.SplitN(rest, "=", 3)
		if len(f) != 3 {
			return out, errors.New("not complete")
		}
		if err := s.recent(f[0]); err != nil {
			return out, err
		}
		out = mail.Address{Local: f[2], Domain: f[1]}
	}
	return mail.ParseAddress(out.String(), true)
}

// sign is the hash of what follows it, without case: local parts lose it on
// their way.
func (s *SRS) sign(key []byte, rest string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(strings.ToLower(rest)))
	return srsAlphabet.EncodeToString(h.Sum(nil))[:srsHash]
}

func (s *SRS) signed(hash, rest string) bool {
	for _, k := range s.Keys {
		if hmac.Equal([]byte(strings.ToUpper(hash)), []byte(s.sign(k, rest))) {
			return true
		}
	}
	return false
}

// day is the present day, modulo srsDays, in two characters.
func (s *SRS) day() string {
	n := s.today()
	return srsDigits[n>>5:n>>5+1] + srsDigits[n&31:n&31+1]
}

const srsDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

func (s *SRS) today() int { return int(s.Now().Unix() / 86400 % srsDays) }

func (s *SRS) recent(day string) error {
	day = strings.ToUpper(day)
	if len(day) != 2 {
		return errors.New("no day")
	}
	a, b := strings.IndexByte(srsDigits, day[0]), strings.IndexByte(srsDigits, day[1])
	if a < 0 || b < 0 {
		return errors.New("no day")
	}
	age := (s.today() - (a<<5 | b) + srsDays) % srsDays
	if time.Duration(age)*24*time.Hour > s.MaxAge {
		return errors.New("too old")
	}
	return nil
}

// forwarded sends r, which leaves for another domain, by the channel reprocess
// if its reverse-path is to be rewritten: when the sender is not one of ours.
func (w *walk) forwarded(r mail.Recipient) (mail.Recipient, error) {
	if w.env == nil || w.env.ReversePath.IsNull() {
		return r, nil
	}
	name, err := directory.NormalizeDomain(w.env.ReversePath.Domain)
	if err != nil || w.x.cfg.SRS.owns(name) {
		return r, nil
	}
	_, err = w.x.cfg.Directory.Domain(w.ctx, name)
	switch {
	case errors.Is(err, directory.ErrNotFound):
	case err == nil, errors.Is(err, directory.ErrAmbiguous):
		return r, nil
	default:
		return r, w.unknown(r.Address, err)
	}
	if _, ok := w.x.cfg.SRS.Forward(w.env.ReversePath); !ok {
		w.rule(r.Address, "", "9", "", "sender's address is too long to be rewritten", nil)
		return r, nil
	}
	w.rule(r.Address, "", "9", "", "the sender's address is rewritten first", nil)
	return w.later(r, resume{stage: stageSRS}), nil
}

// rewritten is the way of r out of the channel reprocess with a new
// reverse-path.
func (w *walk) rewritten(r mail.Recipient) (*Next, error) {
	name, err := directory.NormalizeDomain(r.Address.Domain)
	if err != nil {
		return nil, w.answer(ansUnknownDomain, r.Address, err)
	}
	r.Channel, r.NextHop, r.OptIn = mail.ChannelSMTP, name, w.pass.state.optIn
	n := &Next{Recipients: []mail.Recipient{r}}
	if s := w.x.cfg.SRS; s != nil && w.env != nil && !w.env.ReversePath.IsNull() {
		if a, ok := s.Forward(w.env.ReversePath); ok {
			w.rule(r.Address, "", "9", "", "sender becomes "+a.String(), nil)
			n.ReversePath = &a
		}
	}
	return n, nil
}

// returned takes what comes back to an address that SRS made: reports, which
// have no sender.
func (w *walk) returned(r mail.Recipient) error {
	to, err := w.x.cfg.SRS.Reverse(r.Address)
	if err == nil && w.env != nil && !w.env.ReversePath.IsNull() {
		err = errors.New("not a report")
	}
	if err != nil {
		w.rule(r.Address, "", "9", "", "not taken back", err)
		return w.answer(ansSRS, r.Address, err)
	}
	w.rule(r.Address, "", "9", "", "goes back to "+to.String(), nil)
	return w.redirect(r, "", to)
}
