package imapd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
)

// TestQresyncForgotten catches up from a time whose changes are no longer
// known one by one.
func TestQresyncForgotten(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIP: many changes, too slow with the race detector")
	}
	ctx := context.Background()
	f := start(t, nil)
	c := f.withMessages()
	c.appendMail("INBOX", "", "A: b\r\n")
	c.do("SELECT INBOX")
	c.do(`STORE 2 +FLAGS.SILENT (\Deleted)`)
	c.do("EXPUNGE")
	c.do("UNSELECT")
	account, err := f.boxes.Account(ctx, "eva@example.test")
	if err != nil {
		t.Fatal(err)
	}
	view, err := account.Open(ctx, "INBOX", false)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if _, _, err := account.Append(ctx, "INBOX", slices.Repeat([]mailbox.AppendMessage{{Bytes: []byte("A: b\r\n")}}, 500)); err != nil {
		t.Fatal(err)
	}
	for complete, n := true, 0; complete; n++ {
		op := []mailbox.StoreOp{mailbox.StoreAdd, mailbox.StoreRemove}[n%2]
		for i := range uint32(500) {
			if _, err := view.Store(ctx, []uint32{5 + i}, op, mailbox.FlagDraft, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, complete, err = view.ChangedSince(ctx, 2); err != nil {
			t.Fatal(err)
		}
	}
	c.do("ENABLE QRESYNC")
	for known, want := range map[string]bool{
		"":               true,
		" 1:4":           true,
		" 3:4":           false,
		" 1:4 (1 1)":     true,  // the client agrees up to UID 1
		" 1:4 (1:2 1,3)": false, // up to UID 3: it knows that 2 is gone
		" (1:3 1,3:4)":   false,
		" (1:9 1:9)":     true,
	} {
		lines := c.do(fmt.Sprintf("SELECT INBOX (QRESYNC (%d 2%s))", view.Info().UIDValidity, known))
		told := strings.Contains(strings.Join(lines, "\n"), "* VANISHED (EARLIER) 2\n")
		if told != want {
			t.Errorf("%q: %q", known, lines)
		}
	}
	c.talk(`
		C: a SELECT INBOX (QRESYNC (0 1))
		S: a BAD *
		C: a SELECT INBOX (QRESYNC (1 0))
		S: a BAD *
		C: a SELECT INBOX (QRESYNC (1 1 *))
		S: a BAD *
		C: a SELECT INBOX (QRESYNC (1 1 $))
		S: a BAD *
		C: a SELECT INBOX (QRESYNC (1 1 1:3 (1)))
		S: a BAD *`)
}

// TestUnreadable has the store lose the octets of messages.
func TestUnreadable(t *testing.T) {
	f := start(t, nil)
	c := f.withMessages()
	c.do("SELECT INBOX")
	f.log.SetBroken(errors.New("no such entry"))
	c.talk(`
		C: a FETCH 1:2 (UID BODY.PEEK[])
		S: a NO [SERVERBUG] *
		C: a FETCH 1 (UID ENVELOPE)
		S: * 1 FETCH (UID 1 ENVELOPE *
		S: a OK *
		C: a SEARCH BODY x
		S: a NO [SERVERBUG] *
		C: a SEARCH NOT TEXT x
		S: a NO [SERVERBUG] *
		C: a SEARCH FROM ann
		S: * SEARCH 1
		S: a OK *`)
	f.log.SetBroken(nil)
	c.do("FETCH 1 BODY.PEEK[]")
}
