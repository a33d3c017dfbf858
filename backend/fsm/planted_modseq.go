//go:build planted_modseq

package fsm

// Planted: a change of flags keeps the MODSEQ of the change before.
func (m *mailbox) nextModSeq() uint64 { return m.n.ModSeq }
