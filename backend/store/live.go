package store

import (
	"encoding/binary"
	"slices"
)

// LiveEntries calls f with the index of each entry from first to last that
// holds octets of a stored message or brought it in, ascending.
func (n *Snapshot) LiveEntries(first, last uint64, f func(index uint64)) error {
	parts := make([]uint64, 0, 64)
	n.key = key8(n.key, kindPart, first)
	for ok := n.it.SeekGE(n.key); ok && n.it.Key()[0] == kindPart; ok = n.it.Next() {
		index := binary.BigEndian.Uint64(n.it.Key()[1:])
		if index > last {
			break
		}
		parts = append(parts, index)
	}
	if err := n.done(); err != nil {
		return err
	}
	before := uint64(0) // the entry reported last
	report := func(index uint64) {
		for len(parts) > 0 && parts[0] <= index {
			if parts[0] < index && parts[0] != before {
				f(parts[0])
			}
			parts = parts[1:]
		}
		if index <= last && index != before {
			f(index)
			before = index
		}
	}
	n.key = key8(n.key, kindMessage, first<<MessageBits)
	for ok := n.it.SeekGE(n.key); ok && n.it.Key()[0] == kindMessage; ok = n.it.Next() {
		index := binary.BigEndian.Uint64(n.it.Key()[1:]) >> MessageBits
		if index > last {
			break
		}
		report(index)
	}
	report(last + 1)
	return n.done()
}

// Messages calls f with each stored message from the id given on, ascending,
// until f returns false. The message is valid during the call.
func (n *Snapshot) Messages(from uint64, f func(m *Message) bool) error {
	var m Message
	n.key = key8(n.key, kindMessage, from)
	for ok := n.it.SeekGE(n.key); ok && n.it.Key()[0] == kindMessage; ok = n.it.Next() {
		v, err := n.value()
		if err != nil {
			return err
		}
		m.ID = binary.BigEndian.Uint64(n.it.Key()[1:])
		if err := m.decode(v); err != nil {
			return err
		}
		if !f(&m) {
			return nil
		}
	}
	return n.done()
}

// MessagesOf calls f with the ids of the messages that have octets in the entry
// at index, or came in with it. f may not use the snapshot.
func (n *Snapshot) MessagesOf(index uint64, f func(id uint64)) error {
	var ids []uint64
	n.key = key8(n.key, kindPart, index)
	v, err := n.get()
	if err == nil {
		r := fields{b: v}
		ids = append(ids, r.uint())
		err = r.end()
	} else if err = n.done(); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	err = n.Messages(index<<MessageBits, func(m *Message) bool {
		if m.ID>>MessageBits != index {
			return false
		}
		ids = append(ids, m.ID)
		return true
	})
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		f(id)
	}
	return err
}
