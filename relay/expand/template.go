package expand

import (
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// template is the right side of a delivery option, taken apart (directory.md
// 8.3).
type template []piece

// piece is literal text, or one "$" sequence.
type piece struct {
	text string
	what byte // 0 for text
	n    int  // the digit before what, -1 without one
}

const maxTemplate = 512

func parseTemplate(s string) (template, error) {
	if s == "" || len(s) > maxTemplate {
		return nil, fmt.Errorf("template of %d octets", len(s))
	}
	var t template
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			t = append(t, piece{text: s})
			break
		}
		if i > 0 {
			t = append(t, piece{text: s[:i]})
		}
		p := piece{n: -1}
		s = s[i+1:]
		for s != "" && s[0] >= '0' && s[0] <= '9' {
			if p.n >= 100 {
				return nil, errors.New("number after $ too large")
			}
			p.n = max(p.n, 0)*10 + int(s[0]-'0')
			s = s[1:]
		}
		if s == "" {
			return nil, errors.New("nothing after $")
		}
		p.what, s = s[0], s[1:]
		switch p.what {
		case '$', '%', '@', ',':
			t = append(t, piece{text: string(p.what)})
			continue
		case '\\', '^', '_', 'D', 'L', 'U', 'F', 'P', 'E', 'G':
			if p.n >= 0 {
				return nil, fmt.Errorf("$%d%c takes no number", p.n, p.what)
			}
		case 'I', 'O', 'S':
			if p.n > 3 {
				return nil, fmt.Errorf("$%d%c: 0 to 3", p.n, p.what)
			}
		case 'M', 'A', 'X', 'H', 'J':
		default:
			return nil, fmt.Errorf("unknown $%c", p.what)
		}
		t = append(t, p)
	}
	return t, nil
}

// values are what the sequences of a template stand for.
type values struct {
	uid, address, domain, local string
	user, detail                string // local part without and with only the subaddress
	hosted                      string // canonical domain, "" for the default domain
	route, host                 string
	file, program, spareE       string
	spareG                      string
}

// errNoValue says that a sequence stands for nothing and that the template has
// no use without it.
var errNoValue = errors.New("no value")

// expand writes t with the values of v.
func (t template) expand(v *values) (string, error) {
	var b []byte
	fold := func(s string) string { return s }
	skip := false
	for _, p := range t {
		text := p.text
		if p.what != 0 {
			switch p.what {
			case '\\':
				fold = strings.ToLower
				continue
			case '^':
				fold = strings.ToUpper
				continue
			case '_':
				fold = func(s string) string { return s }
				continue
			}
			var drop dropping
			var err error
			if text, drop, err = v.value(p); err != nil {
				return "", fmt.Errorf("$%c: %w", p.what, err)
			}
			if drop == dropBefore && len(b) > 0 {
				b = b[:len(b)-1]
			}
			text = fold(text)
			if drop == dropAfter {
				skip = true
				continue
			}
		}
		if skip && text != "" {
			text, skip = text[1:], false
		}
		b = append(b, text...)
		if len(b) > 2*mail.MaxPath {
			return "", errors.New("result too long")
		}
	}
	return string(b), nil
}

// dropping is what else goes when a sequence has no value.
type dropping uint8

const (
	dropNone dropping = iota
	dropBefore
	dropAfter
)

func (v *values) value(p piece) (string, dropping, error) {
	switch p.what {
	case 'M':
		return character(v.uid, p.n)
	case 'A':
		return character(v.address, p.n)
	case 'X':
		return label(v.host, p.n)
	case 'H':
		return label(v.domain, max(p.n, 0))
	case 'J':
		return label(v.hosted, max(p.n, 0))
	case 'I':
		return optional(v.hosted, p.n)
	case 'O':
		return optional(v.route, p.n)
	case 'S':
		return optional(v.detail, p.n)
	}
	s := map[byte]string{
		'D': v.domain, 'L': v.local, 'U': v.user, 'F': v.file, 'P': v.program, 'E': v.spareE, 'G': v.spareG,
	}[p.what]
	if s == "" {
		return "", dropNone, errNoValue
	}
	return s, dropNone, nil
}

// character is all of s, or its n-th octet from 0.
func character(s string, n int) (string, dropping, error) {
	switch {
	case s == "" || n >= len(s):
		return "", dropNone, errNoValue
	case n < 0:
		return s, dropNone, nil
	}
	return s[n : n+1], dropNone, nil
}

// label is all of a host name, or its n-th label from 0.
func label(s string, n int) (string, dropping, error) {
	if s == "" {
		return "", dropNone, errNoValue
	}
	if n < 0 {
		return s, dropNone, nil
	}
	labels := strings.Split(s, ".")
	if n >= len(labels) {
		return "", dropNone, errNoValue
	}
	return labels[n], dropNone, nil
}

// optional is s; without a value the digit says what happens.
func optional(s string, n int) (string, dropping, error) {
	if s != "" {
		return s, dropNone, nil
	}
	switch n {
	case 1:
		return "", dropNone, nil
	case 2:
		return "", dropBefore, nil
	case 3:
		return "", dropAfter, nil
	}
	return "", dropNone, errNoValue
}

// values of the entry e in domain d, for r.
func (w *walk) values(r mail.Recipient, d *directory.Domain, e *directory.Entry) *values {
	v := &values{
		uid: e.UID, address: r.Address.String(), domain: r.Address.Domain, local: r.Address.Local, user: r.Address.Local,
		detail: r.Folder, host: e.MailHost, file: e.FileURL, spareE: e.SpareE, spareG: e.SpareG,
	}
	if n := len(r.Folder); n > 0 && n < len(v.local) {
		v.user = v.local[:len(v.local)-n-1]
	}
	if len(e.Programs) > 0 {
		v.program = e.Programs[0]
	}
	if d != nil && d.Hosted {
		v.hosted = d.Name
	}
	if pair, ok := w.x.cfg.Pair(e.MailHost); ok && v.host == "" {
		v.host = pair
	}
	return v
}

// templated carries out an option by its template. The pseudo-domains of the
// old servers mean our channels; everything else is an address, which is
// resolved from the start.
func (w *walk) templated(r mail.Recipient, d *directory.Domain, e *directory.Entry, o *option) error {
	text, err := o.template.expand(w.values(r, d, e))
	if err != nil {
		w.rule(r.Address, e.DN, "8.3", "mailDeliveryOption", "nothing produced by "+o.name+": "+err.Error(), nil)
		return w.misconfigured(r.Address, e.DN, "delivery option "+o.name+" produces nothing", err)
	}
	w.rule(r.Address, e.DN, "8.3", "mailDeliveryOption", o.name+" produces "+text, nil)
	route := ""
	if strings.HasPrefix(text, "@") {
		if before, after, ok := strings.Cut(text[1:], ":"); ok {
			route, text = before, after
		}
	}
	if strings.EqualFold(route, "hold-daemon") {
		r.Channel, r.NextHop, r.Folder = mail.ChannelHold, "", ""
		return w.add(r)
	}
	at := strings.LastIndexByte(text, '@')
	local, domain := text[:max(at, 0)], strings.ToLower(text[at+1:])
	switch domain {
	case "lmtpcs-daemon", "ims-ms-daemon", "ims_daemon":
		host := route
		if n := len(host) - len(".LMTP"); n > 0 && strings.EqualFold(host[n:], ".LMTP") {
			host = host[:n]
		}
		r.Folder = ""
		if base, detail, ok := strings.Cut(local, "+"); ok && base != "" {
			r.Folder = detail
		}
		return w.mailbox(r, d, e, strings.ToLower(host))
	case "bitbucket":
		r.Channel, r.NextHop = mail.ChannelDiscard, ""
		return w.add(r)
	}
	to, err := mail.ParseAddress(text, true)
	if err != nil {
		return w.misconfigured(r.Address, e.DN, "delivery option "+o.name+" produces no address: "+text, err)
	}
	via, err := w.enter(r, e)
	if err != nil {
		return err
	}
	defer w.leave()
	r.Autoreply = nil
	return w.step(r, to, via, nil, nil)
}
