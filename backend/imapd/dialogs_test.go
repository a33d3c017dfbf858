package imapd

import (
	"testing"
)

// TestMailboxDialogs runs dialogs about mailboxes and flags, with INBOX
// selected and threeMessages in it.
func TestMailboxDialogs(t *testing.T) {
	for name, dialog := range map[string]string{
		"store": `
			C: a STORE 1 FLAGS (\Deleted)
			S: * 1 FETCH (FLAGS (\Deleted))
			S: a OK *
			C: a STORE 1 -FLAGS \Deleted \Draft
			S: * 1 FETCH (FLAGS ())
			S: a OK *
			C: a UID STORE 2:3 +FLAGS (a B a A)
			S: * FLAGS (\Seen \Answered \Flagged \Deleted \Draft a B)
			S: * OK [PERMANENTFLAGS *
			S: * 2 FETCH (UID 2 FLAGS (a B))
			S: * 3 FETCH (UID 3 FLAGS (a B))
			S: a OK *
			C: a STORE 2 -FLAGS (A)
			S: * 2 FETCH (FLAGS (B))
			S: a OK *
			C: a STORE 2 FLAGS ()
			S: * 2 FETCH (FLAGS ())
			S: a OK *
			C: a STORE 1:3 +FLAGS.SILENT (\Seen)
			S: a OK *
			C: a STORE 3 -FLAGS.SILENT (unknown)
			S: a OK *
			C: a UID STORE 99 +FLAGS (\Seen)
			S: a OK *
			C: a STORE 9 +FLAGS (\Seen)
			S: a BAD *
			C: a STORE 1 +FLAGS (\Recent)
			S: a BAD *
			C: a STORE 1 +FLAGS (\Nonsense)
			S: a BAD *
			C: a STORE 1 *FLAGS (\Seen)
			S: a BAD *
			C: a STORE 1 FLAGS
			S: a BAD *
			C: a STORE 1 FLAGS (\Seen
			S: a BAD *
			C: a FETCH 1:* FLAGS
			S: * 1 FETCH (FLAGS (\Seen))
			S: * 2 FETCH (FLAGS (\Seen))
			S: * 3 FETCH (FLAGS (\Seen a B))
			S: a OK *`,
		"unchanged since": `
			C: a STORE 1:3 (UNCHANGEDSINCE 3) +FLAGS.SILENT (\Flagged)
			S: * OK [HIGHESTMODSEQ 4] *
			S: * 1 FETCH (UID 1 MODSEQ (5))
			S: * 2 FETCH (UID 2 MODSEQ (5))
			S: a OK [MODIFIED 3] *
			C: a UID STORE 1:3 (UNCHANGEDSINCE 0) +FLAGS (\Answered)
			S: a OK [MODIFIED 1:3] *
			C: a STORE 1 (CHANGEDSINCE 1) +FLAGS (\Answered)
			S: a BAD *`,
		"close removes, unselect does not": `
			L: STORE 1 +FLAGS.SILENT (\Deleted)
			L: CLOSE
			C: a CLOSE
			S: a BAD *
			C: a STATUS INBOX (MESSAGES DELETED)
			S: * STATUS INBOX (MESSAGES 2 DELETED 0)
			S: a OK *
			L: EXAMINE INBOX
			L: UNSELECT`,
		"select that fails leaves no mailbox": `
			C: a SELECT Nowhere
			S: * OK [CLOSED] *
			S: a NO [NONEXISTENT] *
			C: a FETCH 1 UID
			S: a BAD *
			C: a SELECT INBOX (NOSUCH)
			S: a BAD *
			C: a SELECT "&&&"
			S: a NO [NONEXISTENT] *`,
		"names": `
			C: a CREATE Box
			S: a OK [MAILBOXID (F*)] *
			C: a CREATE Box
			S: a NO [ALREADYEXISTS] *
			C: a CREATE INBOX
			S: a NO [ALREADYEXISTS] *
			C: a CREATE ""
			S: a NO [CANNOT] *
			C: a CREATE a//b
			S: a NO [CANNOT] *
			C: a CREATE "bad&name"
			S: a NO [CANNOT] *
			C: a CREATE Deep/er/
			S: a OK *
			C: a RENAME Deep Flat
			S: a OK *
			C: a LIST "" Flat*
			S: * LIST (\NonExistent \Noselect \HasChildren) "/" Flat
			S: * LIST (\HasNoChildren) "/" Flat/er
			S: a OK *
			C: a RENAME "&&" Else
			S: a NO [NONEXISTENT] *
			C: a RENAME Box "&&"
			S: a NO [CANNOT] *
			C: a RENAME Nowhere Else
			S: a NO [NONEXISTENT] *
			C: a RENAME Box Flat/er
			S: a NO [ALREADYEXISTS] *
			C: a RENAME Box Box/inside
			S: a NO [CANNOT] *
			C: a DELETE Flat
			S: a NO [HASCHILDREN] *
			C: a DELETE INBOX
			S: a NO [CANNOT] *
			C: a DELETE Nowhere
			S: a NO [NONEXISTENT] *
			C: a DELETE Box
			S: a OK *
			C: a STATUS Box (MESSAGES)
			S: a NO [NONEXISTENT] *
			C: a STATUS INBOX ()
			S: a BAD *
			C: a STATUS INBOX (NOSUCH)
			S: a BAD *`,
		"rename of INBOX moves its messages": `
			C: a RENAME INBOX Old
			S: * 1 EXPUNGE
			S: * 1 EXPUNGE
			S: * 1 EXPUNGE
			S: a OK *
			C: a STATUS Old (MESSAGES)
			S: * STATUS Old (MESSAGES 3)
			S: a OK *`,
		"delete of the selected mailbox": `
			L: CREATE Box
			L: SELECT Box
			C: a DELETE Box
			S: * OK [CLOSED] *
			S: a OK *
			C: a FETCH 1 UID
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"list": `
			C: a LIST "" ""
			S: * LIST (\Noselect) "/" ""
			S: a OK *
			C: a LIST "" "" RETURN ()
			S: a OK *
			C: a LIST "" inb%
			S: * LIST (\HasNoChildren) "/" INBOX
			S: a OK *
			C: a LIST IN BOX
			S: * LIST (\HasNoChildren) "/" INBOX
			S: a OK *
			C: a LIST "" "&&bad"
			S: a OK *
			C: a LIST (NOSUCH) "" *
			S: a BAD *
			C: a LIST "" * RETURN (NOSUCH)
			S: a BAD *
			C: a LIST "" * RETURN (STATUS ())
			S: a BAD *
			C: a LIST ""
			S: a BAD *
			L: CREATE "M&APw-ll/&U,BTFw-"
			C: a LIST "" "M*"
			S: * LIST (\NonExistent \Noselect \HasChildren) "/" M&APw-ll
			S: * LIST (\HasNoChildren) "/" M&APw-ll/&U,BTFw-
			S: a OK *
			L: CREATE "with space"
			C: a LIST "" "with*"
			S: * LIST (\HasNoChildren) "/" "with space"
			S: a OK *`,
		"lsub": `
			L: UNSUBSCRIBE INBOX
			L: SUBSCRIBE one/two/three
			C: a LSUB "" o%
			S: * LSUB (\Noselect) "/" one
			S: a OK *
			C: a LSUB "" one*
			S: * LSUB (\Noselect) "/" one/two/three
			S: a OK *
			C: a LSUB "one/" %/three
			S: * LSUB (\Noselect) "/" one/two/three
			S: a OK *
			C: a LSUB "" INBOX
			S: a OK *
			C: a SUBSCRIBE a//b
			S: a NO [CANNOT] *`,
		"saved results": `
			C: a SEARCH RETURN (SAVE MAX) ALL
			S: * ESEARCH (TAG "a") MAX 3
			S: a OK *
			C: a FETCH $ UID
			S: * 3 FETCH (UID 3)
			S: a OK *
			C: a SEARCH RETURN (SAVE MIN MAX) ALL
			S: * ESEARCH (TAG "a") MIN 1 MAX 3
			S: a OK *
			C: a SEARCH $
			S: * SEARCH 1 3
			S: a OK *
			C: a SEARCH RETURN (SAVE MIN COUNT) UNSEEN
			S: * ESEARCH (TAG "a") MIN 2 COUNT 2
			S: a OK *
			C: a UID COPY $ Archive
			S: a OK [COPYUID * 2:3 1:2] *
			C: a SEARCH RETURN (SAVE) NOSUCHKEY
			S: a BAD *
			C: a MOVE $ Archive
			S: * OK [COPYUID * 2:3 3:4] *
			S: * 2 EXPUNGE
			S: * 2 EXPUNGE
			S: a OK *
			C: a SEARCH RETURN (SAVE) CHARSET KOI8-R ALL
			S: a NO [BADCHARSET (US-ASCII UTF-8)] *
			C: a SEARCH $
			S: * SEARCH
			S: a OK *`,
		"the MODSEQ of a search": `
			L: STORE 1 +FLAGS (\Flagged)
			L: SELECT INBOX (CONDSTORE)
			C: a SEARCH RETURN (MAX) MODSEQ 1
			S: * ESEARCH (TAG "a") MAX 3 MODSEQ 4
			S: a OK *
			C: a SEARCH RETURN (MIN MAX) MODSEQ 1
			S: * ESEARCH (TAG "a") MIN 1 MAX 3 MODSEQ 5
			S: a OK *
			C: a SEARCH RETURN (COUNT) MODSEQ 6
			S: * ESEARCH (TAG "a") COUNT 0
			S: a OK *
			C: a SEARCH MODSEQ "/flags/\\seen" wrong 4
			S: a BAD *
			C: a SEARCH OR EMAILID x EMAILID M00000000000000zz
			S: * SEARCH
			S: a OK *`,
		"copy and move": `
			C: a COPY 1:3 Box
			S: a NO [TRYCREATE] *
			C: a COPY 2:9 Archive
			S: a BAD *
			C: a UID COPY 2:9 Archive
			S: a OK [COPYUID * 2:3 1:2] *
			L: STORE 2 +FLAGS (\Flagged mine)
			C: a COPY 2 INBOX
			S: * 4 EXISTS
			S: a OK [COPYUID * 2 4] *
			C: a FETCH 4 FLAGS
			S: * 4 FETCH (FLAGS (\Flagged mine))
			S: a OK *
			C: a MOVE 2,4 Trash
			S: * OK [COPYUID * 2,4 1:2] *
			S: * 2 EXPUNGE
			S: * 3 EXPUNGE
			S: a OK *
			C: a UID MOVE 2 Trash
			S: a OK Done
			L: SELECT Trash
			C: a FETCH 1:* FLAGS
			S: * 1 FETCH (FLAGS (\Flagged mine))
			S: * 2 FETCH (FLAGS (\Flagged mine))
			S: a OK *`,
		"enabled modes": `
			C: a ENABLE
			S: a BAD *
			C: a ENABLE QRESYNC IMAP4rev2 UTF8=ACCEPT
			S: * ENABLED QRESYNC IMAP4rev2 UTF8=ACCEPT
			S: a OK *
			C: a STORE 1 +FLAGS (\Deleted)
			S: * 1 FETCH (UID 1 FLAGS (\Seen \Deleted) MODSEQ (5))
			S: a OK *
			C: a UID EXPUNGE 1
			S: * VANISHED 1
			S: a OK [HIGHESTMODSEQ 6] *
			C: a SEARCH ALL
			S: * ESEARCH (TAG "a") ALL 1:2
			S: a OK *
			C: a UID SEARCH FROM nobody
			S: * ESEARCH (TAG "a") UID
			S: a OK *
			C: a FETCH 2 ENVELOPE
			S: * 2 FETCH (ENVELOPE (NIL "=?utf-8?q?Gr=C3=BC=C3=9Fe?=" (("=?iso-8859-1?q?J=F6rg?=" NIL "joerg" "example.net")) *
			S: a OK *`,
		"append": `
			C: a APPEND {5}
			S: + OK
			C: INBOX (\Seen $x) "02-Nov-2026 10:00:00 -0500" {6}
			S: + OK
			C: A: b
			C: 
			S: * FLAGS (\Seen \Answered \Flagged \Deleted \Draft $x)
			S: * OK [PERMANENTFLAGS *
			S: * 4 EXISTS
			S: a OK [APPENDUID * 4] *
			C: a FETCH 4 (FLAGS INTERNALDATE)
			S: * 4 FETCH (FLAGS (\Seen $x) INTERNALDATE " 2-Nov-2026 15:00:00 +0000")
			S: a OK *
			C: a APPEND Nowhere {6+}
			C: A: b
			C: 
			S: a NO [TRYCREATE] *
			C: a APPEND Nowhere {100000}
			S: a NO [TRYCREATE] *
			C: a APPEND INBOX
			S: a BAD *
			C: a APPEND INBOX "text"
			S: a BAD *
			C: a APPEND INBOX (\Nonsense) {6+}
			C: A: b
			C: 
			S: a BAD *
			C: a APPEND INBOX "32-Nov-2026 10:00:00 -0500" {6}
			S: a BAD *
			C: a APPEND INBOX {6+}
			C: A: b
			C: more
			S: a BAD *
			C: a APPEND INBOX {6+}
			C: A: b
			C:  (\Seen) nonsense
			S: a BAD *
			C: a APPEND INBOX {0}
			S: a NO *
			C: a APPEND INBOX {3+}
			C+ A:\0\r\n
			S: a NO [UNKNOWN-CTE] *
			C: a NOOP
			S: a OK *`,
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, nil).withMessages()
			c.do("SELECT INBOX")
			c.talk(dialog)
		})
	}
}
