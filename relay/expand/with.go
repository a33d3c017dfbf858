package expand

import (
	"context"
	"log/slog"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// With returns an expander that is x in everything but the directory that it
// asks and the clock, for Explain: somebody who asks what would happen raises
// no alarms. A nil clock is x's own.
func (x *Expander) With(d directory.Directory, now func() time.Time) *Expander {
	c := &Expander{cfg: x.cfg, options: x.options}
	c.cfg.Directory = d
	c.cfg.Log = slog.New(slog.DiscardHandler)
	c.alarms.log = c.cfg.Log
	if now != nil {
		c.cfg.Now = now
	}
	return c
}

// OnHold reports whether r, of the channel hold, is still to be held: its status
// or its options say so, or nobody knows for now. Whom nobody has any more is
// not, so that the sender hears of it; a postmaster without an entry is the
// operator's.
func (x *Expander) OnHold(ctx context.Context, env *mail.Envelope, r mail.Recipient) bool {
	postmaster := r.Address.IsPostmaster()
	r.Channel, r.NextHop, r.Mailbox, r.Folder, r.Quota, r.Key = "", "", "", "", nil, mail.DeliveryKey{}
	final, err := x.With(x.cfg.Directory, nil).Rcpt(ctx, env, r)
	if err != nil {
		return postmaster || !mail.Permanent(err)
	}
	for i := range final {
		if final[i].Channel == mail.ChannelHold && final[i].Address.Key() == r.Address.Key() {
			return true
		}
	}
	return false
}
