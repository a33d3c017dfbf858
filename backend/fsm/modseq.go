//go:build !planted_modseq

package fsm

// nextModSeq is the MODSEQ of what is about to change.
func (m *mailbox) nextModSeq() uint64 { return m.n.ModSeq + 1 }
