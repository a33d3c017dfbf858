package command

import (
	"errors"
	"testing"
)

var posted = Recipient{Account: "gil@example.test", Folder: "Work", Poster: []string{"eva@example.test", "team@example.test"}, Key: Key{10}}

// postedOf is a delivery as a pair writes it where mailboxes without a list are
// their owners'.
func postedOf(rcpts ...Recipient) *Deliver {
	c := compactOf(rcpts...)
	c.Owners = true
	return c
}

func listedMailbox(head Head) *Import {
	c := importedMailbox(head)
	c.Mailbox.Listed = true
	c.Mailbox.Grants = []Grant{{"anyone", RightPost}, {"eva@example.test", 1<<25 | 1}}
	return c
}

// TestPosterOfInbox: who posts is written only beside a folder.
func TestPosterOfInbox(t *testing.T) {
	rcpt := posted
	rcpt.Folder = ""
	if data := Append(nil, compactOf(rcpt)); data[0] != versionCompact {
		t.Errorf("version %d", data[0])
	}
}

// TestGrantsRefused: a list is in order, without doubles and without lines that
// grant nothing.
func TestGrantsRefused(t *testing.T) {
	for name, list := range map[string][]Grant{
		"twice":             {{"a", 1}, {"a", 2}},
		"not in order":      {{"b", 1}, {"a", 1}},
		"nothing granted":   {{"a", 0}},
		"nobody":            {{"", 1}},
		"a right not known": {{"a", 1 << 26}},
		"too many":          make([]Grant, MaxGrants+1),
	} {
		c := listedMailbox(Head{})
		c.Mailbox.Grants = list
		if _, err := Decode(Append(nil, c)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]*Rights{
		"action": {Account: 1, Action: StoreRemove + 1},
		"right":  {Account: 1, Rights: 1 << 26},
	} {
		if _, err := Decode(Append(nil, c)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRights(t *testing.T) {
	for letters, want := range map[string]struct {
		rights Right
		other  string
		again  string
	}{
		"":     {0, "", ""},
		"p":    {RightPost, "", "p"},
		"zpap": {1 | RightPost | 1<<25, "", "apz"},
		"lrS":  {0, "S", ""},
		"p1":   {0, "1", ""},
		"pö":   {0, "ö", ""},
		"\xff": {0, "\xff", ""},
	} {
		r, other := ParseRights(letters)
		if r != want.rights || other != want.other || r.Letters() != want.again {
			t.Errorf("%q: %v, %q, %q", letters, r, other, r.Letters())
		}
	}
}
