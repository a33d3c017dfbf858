package edit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// change is one write of a request that needs several, so that it can be taken
// back.
type change struct {
	res     *Result
	changes []Edit               // with all values: those of res may be hidden
	old     directory.Attributes // of a rename
}

// undoTime bounds how long it may take to put everything back. It has a time of
// its own: a request may have failed because its own was over.
const undoTime = time.Minute

// whole makes a request that needs several writes one that has all of them or
// none: when f fails, what it has written is put back, the last first, and the
// error says so, or what could not be put back. Nothing is when it is not known
// whether a write was done, because the server does not answer: the same request
// goes on then.
func (ed *Editor) whole(ctx context.Context, f func() (*Result, error)) (*Result, error) {
	ed.undo, ed.unsure = []change{}, false
	res, err := f()
	done, unsure := ed.undo, ed.unsure
	ed.undo, ed.unsure = nil, false
	switch {
	case err == nil || len(done) == 0:
		return res, err
	case unsure:
		return res, fmt.Errorf("%w; it is not finished: make the same request again, which goes on with it", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var left []string
	for _, c := range slices.Backward(done) {
		if uerr := ed.takeBack(ctx, &c); uerr != nil {
			left = append(left, fmt.Sprintf("%s of %s: %v", c.res.Op, c.res.DN, uerr))
			continue
		}
		c.res.Written = false
	}
	if len(left) > 0 {
		return res, fmt.Errorf("%w; not put back: %s", err, strings.Join(left, "; "))
	}
	return res, fmt.Errorf("%w; what had been changed is as it was", err)
}

// wrote notes a write that may have to be taken back.
func (ed *Editor) wrote(res *Result, changes []Edit) {
	if ed.undo != nil {
		ed.undo = append(ed.undo, change{res: res, changes: changes})
	}
}

// takeBack makes the opposite of c.
func (ed *Editor) takeBack(ctx context.Context, c *change) error {
	back := &Result{Op: Set, Kind: c.res.Kind, DN: c.res.DN}
	var write func() error
	switch c.res.Op {
	case Add:
		back.Op = Delete
		write = func() error { return ed.d.Delete(ctx, back.DN) }
	case Rename:
		back.Op, back.DN, back.NewDN = Rename, c.res.NewDN, c.res.DN
		write = func() error { return ed.renameBack(ctx, c) }
	default:
		write = func() error { return ed.d.Modify(ctx, back.DN, modifications(back.Changes)) }
	}
	for _, e := range c.changes {
		back.Changes = append(back.Changes, Edit{Attribute: e.Attribute, Old: e.New, New: e.Old})
	}
	if ed.broken != nil { // no log, which is why it is taken back
		return write()
	}
	_, err := ed.do(ctx, back, nil, write)
	return err
}

// renameBack gives an entry its old name and attributes again, the addresses first:
// with them it is found in both places.
func (ed *Editor) renameBack(ctx context.Context, c *change) error {
	_, now, err := ed.d.Raw(ctx, c.res.NewDN)
	if err != nil {
		return err
	}
	if attr, _, _ := ldap.First(c.res.NewDN); !ed.between(c.res.NewDN, c.old, now) {
		addresses := slices.DeleteFunc(ed.s.AddressAttributes(), func(a string) bool { return strings.EqualFold(a, attr) })
		if err := ed.restore(ctx, c.res.NewDN, c.old, func(a string) bool { return holds(addresses, a) }); err != nil {
			return err
		}
	}
	if err := ed.d.Rename(ctx, c.res.NewDN, firstPart(c.res.DN), ldap.Parent(c.res.DN), false); err != nil {
		return err
	}
	return ed.restore(ctx, c.res.DN, c.old, func(string) bool { return true })
}

// restore makes those attributes of an entry what they were.
func (ed *Editor) restore(ctx context.Context, dn string, old directory.Attributes, those func(attr string) bool) error {
	_, now, err := ed.d.Raw(ctx, dn)
	if err != nil {
		return err
	}
	ed.spell(now)
	mods := modifications(slices.DeleteFunc(diff(now, old), func(e Edit) bool { return !those(e.Attribute) }))
	if len(mods) == 0 {
		return nil
	}
	return ed.d.Modify(ctx, dn, mods)
}

// firstPart is the first part of a name, which names the entry in its place.
func firstPart(dn string) string {
	if parent := ldap.Parent(dn); parent != "" {
		return strings.TrimSuffix(dn, ","+parent)
	}
	return dn
}

// renameAndSet changes the name of an entry and then its attributes, or neither.
func (ed *Editor) renameAndSet(ctx context.Context, m *moving, keep bool, mods []ldap.Modification) error {
	if err := ed.d.Rename(ctx, m.res.DN, firstPart(m.res.NewDN), m.below, keep); err != nil {
		return err
	}
	if len(mods) == 0 {
		return nil
	}
	err := ed.d.Modify(ctx, m.res.NewDN, mods)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	back := ed.renameBack(ctx, &change{res: m.res, old: m.old})
	if back != nil {
		return fmt.Errorf("the name is changed, and the attributes are not: %w", errors.Join(err, back))
	}
	return err
}
