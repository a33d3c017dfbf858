package bounce

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// LanguageTable is the mapping table that chooses languages (mta.md 5 and 8.3).
const LanguageTable = "NOTIFICATION_LANGUAGE"

// Bounds of asking for a language: of one question, and how old the outcome that
// is reported may be when the answer is no longer waited for.
const (
	askFor  = 15 * time.Second
	waitFor = time.Hour
)

// languages are what the reader of a notification wants, the first wish first:
// by the table, by the directory, by the header of the message.
func (b *Bouncer) languages(ctx context.Context, it *queue.Item, rcpts []queue.Recipient, msg []byte) ([]string, error) {
	header := headerLanguages(msg)
	wanted, known := "", false
	ask := func() error {
		if known || b.cfg().Wanted == nil {
			return nil
		}
		limited, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		var err error
		wanted, err = b.cfg().Wanted(limited, it.Envelope.ReversePath)
		if err != nil && ctx.Err() == nil && b.cfg().Now().Sub(outcomeTime(it, rcpts)) > waitFor {
			b.cfg().Log.Warn("language of a notification is not known", "queue_id", it.ID(), "error", err)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("language of a notification: %w", err)
		}
		known = true
		return nil
	}
	if b.cfg().Tables.Has(LanguageTable) {
		languages := header
		if languages == "" {
			if err := ask(); err != nil {
				return nil, err
			}
			languages = wanted
		}
		if tag := b.mapped(it, rcpts, languages); tag != "" {
			return []string{tag}, nil
		}
	}
	if err := ask(); err != nil {
		return nil, err
	}
	return []string{wanted, header}, nil
}

// outcomeTime is when what is reported came to be.
func outcomeTime(it *queue.Item, rcpts []queue.Recipient) time.Time {
	at := it.Envelope.Arrival
	for i := range rcpts {
		if r := &rcpts[i]; r.LastTry.After(at) {
			at = r.LastTry
		}
	}
	return at
}

// mapped is the language that the table says, "" when it says none. The probe is
//
//	kinds|source channel|languages|return address|first recipient
//
// and the result, with $I, the name of texts, or a directory called like that;
// what follows behind a bar is left alone: subject and character set are those
// of the texts.
func (b *Bouncer) mapped(it *queue.Item, rcpts []queue.Recipient, languages string) string {
	probe := strings.Join([]string{
		kindsOf(rcpts), sourceChannel(it), languages, it.Envelope.ReversePath.String(), rcpts[0].Address.String(),
	}, "|")
	r, err := b.cfg().Tables.Apply(LanguageTable, probe)
	if err != nil {
		b.cfg().Log.Warn("language of a notification is not chosen by the table", "table", LanguageTable, "probe", probe, "error", err)
		return ""
	}
	if !r.Matched || !r.Has(mapping.Index) {
		return ""
	}
	tag, _, _ := strings.Cut(r.Text, "|")
	tag = path.Base(strings.TrimSpace(tag))
	if !b.cfg().Texts.Has(tag) {
		b.cfg().Log.Warn("table names a language that there are no texts of", "table", LanguageTable, "probe", probe, "language", tag)
		return ""
	}
	return tag
}

// kindsOf names the kinds of a notification as the table does, parted by commas.
func kindsOf(rcpts []queue.Recipient) string {
	var names []string
	for _, k := range kinds {
		if !slices.ContainsFunc(rcpts, func(r queue.Recipient) bool { return r.State == k.state }) {
			continue
		}
		if k.kind == returned {
			names = append(names, "bounced") // by an operator
		} else {
			names = append(names, string(k.kind))
		}
	}
	return strings.Join(names, ",")
}

// sourceChannel is the channel that a message came by, as far as the queue knows.
func sourceChannel(it *queue.Item) string {
	switch {
	case it.Envelope.AuthUser != "":
		return "tcp_auth"
	case it.Parent.ID != "":
		return string(mail.ChannelReprocess)
	}
	return string(mail.ChannelSMTP)
}

// headerLanguages are those of the message's own header, as the sender's program
// writes them (RFC 3282 and before).
func headerLanguages(msg []byte) string {
	header := msg[:message.HeaderLen(msg)]
	for _, name := range []string{"Accept-Language", "Preferred-Language", "X-Accept-Language"} {
		if v, ok := message.Get(header, name); ok {
			if tags := directory.Languages(string(v)); len(tags) > 0 {
				return strings.Join(tags, ",")
			}
		}
	}
	return ""
}
