//go:build planted_uid

package fsm

// Planted: a mailbox without messages gives its last UID again.
func (m *mailbox) nextUID() uint32 {
	if m.n.Messages == 0 && m.n.UIDNext > 1 {
		m.n.UIDNext--
	}
	m.n.UIDNext++
	return m.n.UIDNext - 1
}
