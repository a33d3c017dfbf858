package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Rights is the list of rights of a mailbox. One without any lines is a list too.
type Rights struct {
	Grants []Grant // in the order of identifiers

	sum Sum
}

// Grant is what one identifier may do with a mailbox.
type Grant struct {
	Identifier string
	Rights     uint32 // bits, their meaning is package command's
}

func (r *Rights) encode(b []byte) []byte {
	for i := range r.Grants {
		b = putUint(putString(b, r.Grants[i].Identifier), uint64(r.Grants[i].Rights))
	}
	return b
}

func (r *Rights) decode(v []byte) error {
	f := fields{b: v}
	r.Grants = nil
	for len(f.b) > 0 {
		g := Grant{Identifier: f.string()}
		g.Rights = f.uint32()
		r.Grants = append(r.Grants, g)
	}
	return f.err
}

func keyRights(b []byte, account, mailbox uint64) []byte {
	return binary.BigEndian.AppendUint64(append(key8(b, kindAccount, account), sectionRights), mailbox)
}

// PutRights writes the list of a mailbox over the one that r was read from or
// written as.
func (b *Batch) PutRights(account, mailbox uint64, r *Rights) {
	b.key = keyRights(b.key, account, mailbox)
	r.sum = b.put(b.key, r.encode(b.value[:0]), r.sum)
}

// DeleteRights takes the list of a mailbox away.
func (b *Batch) DeleteRights(account, mailbox uint64, r *Rights) {
	b.key = keyRights(b.key, account, mailbox)
	b.delete(b.key)
	b.digest.Sub(r.sum)
	r.sum = Sum{}
}

// Rights calls f with every list of rights that mailboxes of an account have.
// It is f's to keep.
func (n *Snapshot) Rights(account uint64, f func(mailbox uint64, r *Rights)) error {
	n.key = append(key8(n.key, kindAccount, account), sectionRights)
	prefix := bytes.Clone(n.key)
	for ok := n.it.SeekGE(prefix); ok && bytes.HasPrefix(n.it.Key(), prefix); ok = n.it.Next() {
		v, err := n.value()
		if err != nil {
			return err
		}
		r := &Rights{sum: rowSum(n.it.Key(), v)}
		if err := r.decode(v); err != nil {
			return err
		}
		f(binary.BigEndian.Uint64(n.it.Key()[boxAt:]), r)
	}
	return n.done()
}

// RightsOf returns the list of rights of a mailbox; ErrNotFound when it has none.
func (n *Snapshot) RightsOf(account, mailbox uint64) (*Rights, error) {
	n.key = keyRights(n.key, account, mailbox)
	v, err := n.get()
	if err != nil {
		return nil, err
	}
	r := &Rights{sum: rowSum(n.key, v)}
	return r, r.decode(v)
}

// rightsRow checks a list against its mailbox, which stands before it.
func (v *verifier) rightsRow(key, value []byte) error {
	box := binary.BigEndian.Uint64(key[boxAt:])
	if v.want[box] == nil {
		return fmt.Errorf("%w: rights of mailbox %d, which does not exist", ErrInconsistent, box)
	}
	var r Rights
	if err := r.decode(value); err != nil {
		return err
	}
	for i := range r.Grants {
		g := &r.Grants[i]
		if g.Identifier == "" || g.Rights == 0 || i > 0 && r.Grants[i-1].Identifier >= g.Identifier {
			return fmt.Errorf("%w: rights of mailbox %d are not in order", ErrInconsistent, box)
		}
	}
	return nil
}
