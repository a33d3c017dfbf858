package command

import (
	"errors"
	"testing"
)

func importedAccount(head Head) *Import {
	return &Import{
		Head: head, Account: "ann@x", Token: Key{7}, KeyLife: 1 << 50,
		Self:     &ImportSelf{UIDValidity: 1_700_000_009, Limit: Limit{Bytes: 1 << 30, Messages: -1, Stamp: "s"}, Mailboxes: []uint32{1_700_000_000}, Subscriptions: []string{"INBOX"}},
		Keys:     []ImportKey{{Key: Key{1}, Hash: Hash{2}, Mailbox: 1_700_000_000, UIDValidity: 1_700_000_000, UID: 3, Answer: true}},
		Answered: []ImportAnswered{{Hash: Hash{3}, Until: 1_700_000_000_000_000_000, Open: true}, {Hash: Hash{4}, Until: 9, By: Key{5}}},
	}
}

func importedMailbox(head Head) *Import {
	head.Tail = []byte("From: x\r\n\r\n")
	return &Import{
		Head: head, Account: "ann@x", Token: Key{7}, First: 1, Last: 9,
		Mailbox: &ImportMailbox{Name: "INBOX", UIDValidity: 1_700_000_000, UIDNext: 10, ModSeq: 40, SpecialUse: UseSent, Keywords: []string{"$a"}},
		Rows: []ImportRow{
			{UID: 2, Flags: 33, ModSeq: 40, Created: 7, InternalDate: 5, SaveDate: 6, Message: &Message{Size: 11, Hash: Hash{1}, Meta: []byte("m"), Body: []Extent{{Off: 0, Len: 11}}}},
			{UID: 4, ModSeq: 9, Created: 9, InternalDate: -5, SaveDate: 6},
		},
	}
}

// TestImportRefused: what an import cannot mean is not well formed.
func TestImportRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Import){
		"UID not above the one before":    func(c *Import) { c.Rows[1].UID = 2 },
		"UID at UIDNEXT":                  func(c *Import) { c.Last, c.Rows[1].UID = 10, 10 },
		"UID outside the range":           func(c *Import) { c.Last = 3 },
		"MODSEQ above the mailbox's":      func(c *Import) { c.Rows[1].ModSeq = 41 },
		"changed before it came":          func(c *Import) { c.Rows[1].Created = 10 },
		"account and mailbox in one":      func(c *Import) { c.Self = importedAccount(Head{}).Self },
		"octets that are not in the tail": func(c *Import) { c.Rows[0].Message.Body[0].Off = 1 },
	} {
		c := importedMailbox(Head{})
		spoil(c)
		if _, err := Decode(Append(nil, c)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := &Move{Step: MoveDrop + 1}
	if _, err := Decode(Append(nil, c)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("step: %v", err)
	}
}
