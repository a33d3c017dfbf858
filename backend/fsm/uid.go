//go:build !planted_uid

package fsm

// nextUID gives a UID that was never given before.
func (m *mailbox) nextUID() uint32 {
	m.n.UIDNext++
	return m.n.UIDNext - 1
}
