package imapd

import (
	"testing"
)

func TestDialogs(t *testing.T) {
	for name, dialog := range map[string]string{
		"first steps": `
			S: * OK [CAPABILITY IMAP4rev1 *] store.test IMAP ready
			C: a1 CAPABILITY
			S: * CAPABILITY IMAP4rev1 *
			S: a1 OK Done
			C: a2 SELECT INBOX
			S: a2 BAD Log in first
			C: a3 LOGIN eva@example.test secret
			S: a3 OK [CAPABILITY IMAP4rev1 *] Logged in
			C: a4 select inbox
			S: * FLAGS (\Seen \Answered \Flagged \Deleted \Draft)
			S: * OK [PERMANENTFLAGS (\Seen \Answered \Flagged \Deleted \Draft \*)] *
			S: * 0 EXISTS
			S: * 0 RECENT
			S: * OK [UIDVALIDITY *] *
			S: * OK [UIDNEXT 1] *
			S: * OK [HIGHESTMODSEQ 1] *
			S: * OK [MAILBOXID (F*)] *
			S: a4 OK [READ-WRITE] Selected
			C: a5 APPEND INBOX (\Seen) " 1-Feb-1994 03:04:05 +0100" {29}
			S: + OK
			C: Subject: hi
			C: 
			C: Hello, World
			C: 
			S: * 1 EXISTS
			S: a5 OK [APPENDUID * 1] Done
			C: a6 FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE BODY[])
			S: * 1 FETCH (UID 1 FLAGS (\Seen) INTERNALDATE " 1-Feb-1994 02:04:05 +0000" RFC822.SIZE 29 BODY[] {29}
			S: Subject: hi
			S: 
			S: Hello, World
			S: )
			S: a6 OK Done
			C: a7 STORE 1 +FLAGS (\Deleted kw)
			S: * FLAGS (\Seen \Answered \Flagged \Deleted \Draft kw)
			S: * OK [PERMANENTFLAGS *
			S: * 1 FETCH (FLAGS (\Seen \Deleted kw))
			S: a7 OK Done
			C: a8 SEARCH KEYWORD kw BODY world
			S: * SEARCH 1
			S: a8 OK Done
			C: a9 EXPUNGE
			S: * 1 EXPUNGE
			S: a9 OK Done
			C: b1 LIST "" *
			S: * LIST (\HasNoChildren) "/" INBOX
			S: * LIST (\HasNoChildren \Archive) "/" Archive
			S: * LIST (\HasNoChildren \Drafts) "/" Drafts
			S: * LIST (\HasNoChildren \Junk) "/" Junk
			S: * LIST (\HasNoChildren \Sent) "/" Sent
			S: * LIST (\HasNoChildren \Trash) "/" Trash
			S: b1 OK Done
			C: b2 IDLE
			S: + idling
			C: DONE
			S: b2 OK Done
			C: b3 LOGOUT
			S: * BYE *
			S: b3 OK Done
			=
		`,
	} {
		t.Run(name, func(t *testing.T) {
			start(t, nil).dial().talk(dialog)
		})
	}
}
