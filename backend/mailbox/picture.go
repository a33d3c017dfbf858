package mailbox

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/postern-mail/postern/backend/store"
)

// ErrPicture says that a picture cannot be shown here.
var ErrPicture = errors.New("picture of a mailbox cannot be shown")

// pictureVersion begins the text of a picture.
const pictureVersion = 1

// picture is what a View shows, for another replica to go on with: numbers,
// MODSEQs and UIDs are the same on each.
type picture struct {
	mailbox     uint64
	uidValidity uint32
	uidNext     uint32
	modSeq      uint64
	keywords    int // of the mailbox's, from the first on
	readOnly    bool
	uids        numbering
	gone        []uint32
}

// Picture returns what the view shows, as of the last Sync that told what it
// found; nil when that takes more than most octets.
func (v *View) Picture(most int) []byte {
	p := picture{
		mailbox: v.id, uidValidity: v.info.UIDValidity, uidNext: v.info.UIDNext, modSeq: v.info.HighestModSeq,
		keywords: len(v.info.Keywords), readOnly: v.readOnly, uids: v.uids, gone: v.gone,
	}
	return p.encode(most)
}

func (p *picture) encode(most int) []byte {
	b := []byte{pictureVersion, 0}
	if p.readOnly {
		b[1] = 1
	}
	for _, n := range []uint64{p.mailbox, uint64(p.uidValidity), uint64(p.uidNext), p.modSeq, uint64(p.keywords), uint64(len(p.uids.runs))} {
		b = binary.AppendUvarint(b, n)
	}
	next := uint32(1)
	for i := range p.uids.runs {
		first, end := p.uids.runs[i].first, p.uids.end(i)
		b = binary.AppendUvarint(b, uint64(first-next))
		b = binary.AppendUvarint(b, uint64(end-first))
		if next = end; len(b) > most {
			return nil
		}
	}
	last := uint32(0)
	for _, uid := range p.gone {
		b = binary.AppendUvarint(b, uint64(uid-last))
		if last = uid; len(b) > most {
			return nil
		}
	}
	if len(b) > most {
		return nil
	}
	return b
}

// decodePicture reads what encode has written, or what somebody else made up.
func decodePicture(b []byte) (p picture, err error) {
	if len(b) < 2 || b[0] != pictureVersion || b[1] > 1 {
		return p, ErrPicture
	}
	p.readOnly = b[1] == 1
	b = b[2:]
	bad := false
	number := func(most uint64) uint64 {
		n, k := binary.Uvarint(b)
		if k <= 0 || n > most {
			bad = true
			return 0
		}
		b = b[k:]
		return n
	}
	p.mailbox = number(math.MaxUint64)
	p.uidValidity, p.uidNext = uint32(number(math.MaxUint32)), uint32(number(math.MaxUint32))
	p.modSeq, p.keywords = number(math.MaxUint64), int(number(math.MaxInt32))
	runs, next := number(uint64(len(b))), uint64(1)
	for ; runs > 0 && !bad; runs-- {
		first := next + number(math.MaxUint32)
		n := number(math.MaxUint32)
		if next = first + n; n == 0 || next > uint64(p.uidNext) {
			return p, ErrPicture
		}
		p.uids.addRun(uint32(first), uint32(next))
	}
	for last := uint64(0); len(b) > 0 && !bad; {
		n := number(math.MaxUint32)
		last += n
		if n == 0 || last >= uint64(p.uidNext) {
			return p, ErrPicture
		}
		if _, ok := p.uids.seq(uint32(last)); !ok {
			return p, ErrPicture
		}
		p.gone = append(p.gone, uint32(last))
	}
	if bad {
		return p, ErrPicture
	}
	return p, nil
}

// Resume shows a picture that another replica has shown: the next Sync tells
// what has changed since then. ErrPicture when the mailbox is gone or is not
// the one of the picture.
func (a *Account) Resume(ctx context.Context, text []byte) (*View, error) {
	p, err := decodePicture(text)
	if err != nil {
		return nil, err
	}
	n, err := a.s.cfg.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	m, err := n.Mailbox(a.id, p.mailbox)
	var c store.Counters
	if err == nil {
		c, err = n.Counters(a.id, p.mailbox)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, a.unlessStale(ctx, ErrPicture)
	}
	if err != nil {
		return nil, err
	}
	if p.uidValidity != m.UIDValidity || p.uidNext == 0 || p.uidNext > c.UIDNext || p.modSeq == 0 || p.modSeq > c.ModSeq || p.keywords > len(m.Keywords) {
		return nil, a.unlessStale(ctx, ErrPicture)
	}
	v := &View{a: a, id: m.ID, readOnly: p.readOnly, watch: a.s.cfg.Hub.Watch(m.ID), info: infoOf(&m, &c), uids: p.uids, gone: p.gone}
	v.info.UIDNext, v.info.HighestModSeq, v.info.Keywords = p.uidNext, p.modSeq, slices.Clip(m.Keywords[:p.keywords])
	if err := a.s.cfg.Log.Confirm(ctx); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}
