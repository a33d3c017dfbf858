package expand

import (
	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// mapped goes on with what the list's mapping makes of m, which its member URL u
// has found (directory.md 13.3): of its address, or of each value of the attribute
// that the URL names. $Y puts the result in its place, $N leaves it out, and
// without either it stays. plain takes an entry as it is, add an address.
func (w *walk) mapped(r mail.Recipient, e *directory.Entry, u string, m *directory.Entry, plain func(*directory.Entry) error, add func(string, *directory.Entry) error) error {
	values, named := []string{m.Mail}, false
	if parsed, err := directory.ParseURL(u); err == nil && len(parsed.Attributes) > 0 {
		attr := parsed.Attributes[0]
		if values, named = m.Raw.Get(attr), true; directory.Secret(attr) {
			values = nil
		}
	}
	for _, v := range values {
		if v == "" {
			continue
		}
		out, err := w.x.cfg.Mappings.Apply(e.List.ResultMapping, u+"|"+v)
		if err != nil {
			return w.misconfigured(r.Address, e.DN, "mapping of what member URLs find: "+e.List.ResultMapping, err)
		}
		switch {
		case out.Has(mapping.No):
			if w.trace != nil {
				w.rule(r.Address, m.DN, "13.3", "mgrpURLResultMapping", "left out by the mapping: "+v, nil)
			}
		case out.Has(mapping.Yes):
			if w.trace != nil {
				w.rule(r.Address, m.DN, "13.3", "mgrpURLResultMapping", v+" becomes "+out.Text, nil)
			}
			err = add(out.Text, nil)
		case named:
			err = add(v, nil)
		default:
			err = plain(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
