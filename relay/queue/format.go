package queue

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// An envelope file is lines of text, each a key and its values:
//
//	postern-queue 2 1            version written, lowest version that may read it
//	id "..."
//	...
//	rcpt "bob@example.org"       begins a recipient
//	+channel "tcp_lmtpcs"        belongs to it
//	...
//	end 1a2b3c4d                 CRC-32C of everything before this line
//
// Text is quoted as in Go, times are Unix nanoseconds, absent lines mean zero
// values. A reader skips keys it does not know, which is how a newer version
// adds what an older one may ignore; what it may not ignore raises the lowest
// version. Keys are never given another meaning.
//
// Version 2 adds +reply and the keys that begin with it, how the recipient's
// mail is answered. Version 1 delivers without them, and answers nothing. It also
// adds claim and its kin, on autoreplies: who skips them sends without asking.
//
// Some keys came later and need no version of their own. Who skips +store makes
// the mailbox in the pair's default partition; who skips +poster gives the mail to
// the folder only if anyone may post there; who skips +reports reports by the
// relay's own name; who skips welcome, the texts for new mailboxes, and +welcome,
// which of them it is from 1, welcomes nobody; who skips guaranteed lets the
// mailboxes' quotas count; who skips parent and its kin does not wait for the
// message that this one was made of, and may make it twice when it crashes.
//
// Version 3 is written by queues on level 2 (see level.go). It adds hash, the
// first half of the SHA-256 of ID.msg, and as its last line before the end
//
//	seal 0123...                 first half of the SHA-256 of everything before
//
// because a CRC of 32 bits lets one damaged file in four thousand million pass,
// and says little of one of 100 MB. Who checks neither must not read it: the
// lowest version is 3.
const (
	formatVersion = 3
	formatMagic   = "postern-queue"
)

// versions of a level: what is written, and the lowest version that may read it.
var versions = map[int][2]int64{1: {2, 1}, 2: {3, 3}}

// Limits of an envelope file; beyond them it counts as damaged.
const (
	maxEnvelope   = 128 << 20
	maxRecipients = 500_000
	maxNames      = 1000 // addresses in an autoreply
)

var (
	// ErrDamaged says that a file of the queue cannot be what was written.
	ErrDamaged = errors.New("queue file damaged")
	// ErrVersion says that a newer version wrote a file this one may not read.
	ErrVersion = errors.New("queue file of a newer version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder appends lines.
type encoder struct{ b []byte }

func (e *encoder) text(key, value string) {
	if value != "" {
		e.b = append(e.b, key...)
		e.b = append(e.b, ' ')
		e.b = strconv.AppendQuoteToASCII(e.b, value)
		e.b = append(e.b, '\n')
	}
}

func (e *encoder) num(key string, value int64) {
	if value != 0 {
		e.b = append(e.b, key...)
		e.b = append(e.b, ' ')
		e.b = strconv.AppendInt(e.b, value, 10)
		e.b = append(e.b, '\n')
	}
}

func (e *encoder) flag(key string, set bool) {
	if set {
		e.b = append(e.b, key...)
		e.b = append(e.b, '\n')
	}
}

func (e *encoder) time(key string, t time.Time) {
	if !t.IsZero() {
		e.num(key, t.UnixNano())
	}
}

// appendItem appends the envelope file of it, as a queue on this level has it.
func appendItem(b []byte, it *Item, level int) []byte {
	e := encoder{b: b}
	start := len(b)
	e.b = append(e.b, formatMagic...)
	e.b = append(e.b, ' ')
	e.b = strconv.AppendInt(e.b, versions[level][0], 10)
	e.b = append(e.b, ' ')
	e.b = strconv.AppendInt(e.b, versions[level][1], 10)
	e.b = append(e.b, '\n')
	env := &it.Envelope
	e.text("id", env.QueueID)
	e.text("root", env.RootID)
	e.text("origin", env.Origin)
	e.time("arrival", env.Arrival)
	e.text("from", env.ReversePath.String())
	e.text("envid", env.EnvelopeID)
	e.text("ret", env.Ret)
	e.text("body", string(env.Body))
	e.flag("utf8", env.SMTPUTF8)
	e.num("announced", env.Size)
	e.num("priority", int64(env.Priority))
	e.text("auth", env.AuthUser)
	e.flag("guaranteed", env.Guaranteed)
	e.num("size", it.Size)
	e.num("sum", int64(it.Sum))
	if level >= 2 && it.Hash != (Hash{}) {
		e.b = append(e.b, "hash "...)
		e.b = hex.AppendEncode(e.b, it.Hash[:])
		e.b = append(e.b, '\n')
	}
	e.text("client", it.Client)
	e.flag("held", it.Held)
	e.text("reason", it.Reason)
	e.time("heldat", it.HeldAt)
	e.num("notices", int64(it.Notices))
	e.num("crashes", int64(it.Crashes))
	e.flag("report", it.Report)
	e.claim(env.Claim)
	e.parent(&it.Parent)
	texts := e.welcomes(it.Recipients)
	for i := range it.Recipients {
		e.recipient(&it.Recipients[i])
		e.num("+welcome", int64(texts[it.Recipients[i].Welcome]))
	}
	if level >= 2 {
		e.b = appendSeal(e.b, start)
	}
	sum := crc32.Checksum(e.b[start:], castagnoli)
	e.b = append(e.b, "end "...)
	e.b = appendHex32(e.b, sum)
	return append(e.b, '\n')
}

// appendSeal appends the line that vouches for b from start on.
func appendSeal(b []byte, start int) []byte {
	h := hashOf(b[start:])
	b = append(b, "seal "...)
	b = hex.AppendEncode(b, h[:])
	return append(b, '\n')
}

// sealed checks the last line of a file of version 3.
func sealed(b []byte) error {
	const line = len("seal \n") + 2*len(Hash{})
	if len(b) < line {
		return fmt.Errorf("%w: no seal", ErrDamaged)
	}
	body, last := b[:len(b)-line], b[len(b)-line:]
	h := hashOf(body)
	if string(last) != "seal "+hex.EncodeToString(h[:])+"\n" {
		return fmt.Errorf("%w: seal", ErrDamaged)
	}
	return nil
}

func appendHex32(b []byte, n uint32) []byte {
	const digits = "0123456789abcdef"
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// parent appends what the message was made of.
func (e *encoder) parent(p *Parent) {
	if p.ID == "" {
		return
	}
	e.text("parent", p.ID)
	e.text("parentkey", p.Key.String())
	if p.State != Pending {
		e.text("parentstate", p.State.String())
	}
	e.num("parentnotice", int64(p.Notice))
}

func (e *encoder) recipient(r *Recipient) {
	e.b = append(e.b, "rcpt "...)
	e.b = strconv.AppendQuoteToASCII(e.b, r.Address.String())
	e.b = append(e.b, '\n')
	e.text("+orcpt", r.OriginalRecipient)
	e.num("+notify", int64(r.Notify))
	e.text("+channel", string(r.Channel))
	e.text("+hop", r.NextHop)
	e.text("+mailbox", r.Mailbox)
	e.text("+folder", r.Folder)
	for _, v := range r.Poster {
		e.text("+poster", v)
	}
	if r.Key != (mail.DeliveryKey{}) {
		e.text("+key", r.Key.String())
	}
	if q := r.Quota; q != nil {
		e.b = append(e.b, "+quota "...)
		e.b = strconv.AppendInt(e.b, q.Bytes, 10)
		e.b = append(e.b, ' ')
		e.b = strconv.AppendInt(e.b, q.Messages, 10)
		e.b = append(e.b, ' ')
		e.b = strconv.AppendQuoteToASCII(e.b, q.Stamp)
		e.b = append(e.b, '\n')
	}
	e.text("+store", r.Store)
	e.text("+reports", r.Reports.String())
	for _, v := range r.Via {
		e.b = append(e.b, "+via "...)
		e.b = strconv.AppendQuoteToASCII(e.b, v)
		e.b = append(e.b, '\n')
	}
	e.text("+list", r.ListName)
	e.autoreply(r.Autoreply)
	if r.State != Pending {
		e.text("+state", r.State.String())
	}
	e.num("+attempts", int64(r.Attempts))
	e.num("+step", int64(r.Step))
	e.time("+last", r.LastTry)
	e.time("+next", r.Next)
	e.time("+busy", r.Busy)
	e.flag("+unknown", r.Unknown)
	e.num("+code", int64(r.Answer.Code))
	e.text("+status", r.Answer.Status.String())
	e.text("+text", r.Answer.Text)
	e.text("+relay", r.Answer.Relay)
}
