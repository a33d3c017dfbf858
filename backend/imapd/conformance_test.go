package imapd

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// conformance has a dialog for each capability that the server lists. A dialog
// begins after the login of a user whose INBOX holds the three messages of
// threeMessages, unless its name says otherwise.
var conformance = map[string]string{
	"IMAP4rev1": `
		C: a SELECT INBOX
		S: * FLAGS (*
		S: * OK [PERMANENTFLAGS *
		S: * 3 EXISTS
		S: * 0 RECENT
		S: * OK [UNSEEN 2] *
		S: * OK [UIDVALIDITY *
		S: * OK [UIDNEXT 4] *
		S: * OK [HIGHESTMODSEQ *
		S: * OK [MAILBOXID *
		S: a OK [READ-WRITE] *
		C: a FETCH 1 (FLAGS RFC822.SIZE RFC822.HEADER)
		S: * 1 FETCH (FLAGS (\Seen) RFC822.SIZE 176 RFC822.HEADER {162}
		S: From: Ann <ann@example.net>
		S: To: eva@example.test
		S: Subject: First
		S: Date: Mon, 2 Nov 2026 10:00:00 +0100
		S: Message-ID: <1@example.net>
		S: Content-Type: text/plain
		S: 
		S: )
		S: a OK *
		C: a SEARCH UNSEEN
		S: * SEARCH 2 3
		S: a OK *
		C: a LSUB "" "%"
		S: * LSUB () "/" INBOX
		S: * LSUB () "/" Archive
		S: * LSUB () "/" Drafts
		S: * LSUB () "/" Junk
		S: * LSUB () "/" Sent
		S: * LSUB () "/" Trash
		S: a OK *
		C: a STATUS INBOX (MESSAGES RECENT UNSEEN UIDNEXT UIDVALIDITY)
		S: * STATUS INBOX (MESSAGES 3 RECENT 0 UIDNEXT 4 UIDVALIDITY * UNSEEN 2)
		S: a OK *
		C: a CREATE "M&APw-ll"
		S: a OK [MAILBOXID *] *
		C: a LIST "" M*
		S: * LIST (\HasNoChildren) "/" M&APw-ll
		S: a OK *
		C: a CHECK
		S: a OK *
		C: a CLOSE
		S: a OK *`,
	"IMAP4rev2": `
		C: a ENABLE IMAP4rev2
		S: * ENABLED IMAP4rev2
		S: a OK *
		C: a SELECT INBOX
		S: * FLAGS (*
		S: * OK [PERMANENTFLAGS *
		S: * 3 EXISTS
		S: * OK [UIDVALIDITY *
		S: * OK [UIDNEXT 4] *
		S: * OK [HIGHESTMODSEQ *
		S: * OK [MAILBOXID *
		S: * LIST () "/" INBOX
		S: a OK [READ-WRITE] *
		C: a SEARCH SEEN
		S: * ESEARCH (TAG "a") ALL 1
		S: a OK *
		C: a CREATE "Müll"
		S: a OK [MAILBOXID *] *
		C: a LIST "" M*
		S: * LIST (\HasNoChildren) "/" "Müll"
		S: a OK *
		C: a STATUS INBOX (MESSAGES SIZE DELETED)
		S: * STATUS INBOX (MESSAGES 3 DELETED 0 SIZE *)
		S: a OK *
		C: a EXAMINE INBOX
		S: * OK [CLOSED] *
		S: * FLAGS (*
		S: * OK [PERMANENTFLAGS ()] *
		S: * 3 EXISTS
		S: * OK [UIDVALIDITY *
		S: * OK [UIDNEXT 4] *
		S: * OK [HIGHESTMODSEQ *
		S: * OK [MAILBOXID *
		S: * LIST () "/" INBOX
		S: a OK [READ-ONLY] *`,
	"ACL": `
		C: a GETACL INBOX
		S: * ACL INBOX eva@example.test lrswipkxteacd anyone p
		S: a OK *
		C: a CREATE Work
		S: a OK *
		C: a GETACL Work
		S: * ACL Work eva@example.test lrswipkxteacd anyone p
		S: a OK *
		C: a SETACL Work Bob +p
		S: a OK *
		C: a SETACL Work "group=team@example.test" p
		S: a OK *
		C: a DELETEACL Work anyone
		S: a OK *
		C: a GETACL Work
		S: * ACL Work eva@example.test lrswipkxteacd bob@example.test p team@example.test p
		S: a OK *
		C: a SETACL Work bob@example.test -p
		S: a OK *
		C: a DELETEACL Work team@example.test
		S: a OK *
		C: a GETACL Work
		S: * ACL Work eva@example.test lrswipkxteacd
		S: a OK *
		C: a MYRIGHTS Work
		S: * MYRIGHTS Work lrswipkxteacd
		S: a OK *
		C: a LISTRIGHTS Work bob
		S: * LISTRIGHTS Work bob "" p
		S: a OK *
		C: a LISTRIGHTS INBOX anyone
		S: * LISTRIGHTS INBOX anyone p
		S: a OK *
		C: a LISTRIGHTS Work {3}
		S: + *
		C: eva
		S: * LISTRIGHTS Work eva lrswipkxteacd
		S: a OK *
		C: a SETACL Work -Bob p
		S: a OK *
		C: a SETACL Work anyone@Example.TEST +p
		S: a OK *
		C: a SETACL Work "-group=interns@example.test" +p
		S: a OK *
		C: a GETACL Work
		S: * ACL Work eva@example.test lrswipkxteacd -bob@example.test p -interns@example.test p anyone@example.test p
		S: a OK *
		C: a LISTRIGHTS Work -bob
		S: * LISTRIGHTS Work -bob "" p
		S: a OK *
		C: a LISTRIGHTS Work anyone@example.test
		S: * LISTRIGHTS Work anyone@example.test "" p
		S: a OK *
		C: a LISTRIGHTS Work -eva
		S: * LISTRIGHTS Work -eva ""
		S: a OK *
		C: a LISTRIGHTS INBOX -bob
		S: * LISTRIGHTS INBOX -bob ""
		S: a OK *
		C: a MYRIGHTS Work
		S: * MYRIGHTS Work lrswipkxteacd
		S: a OK *
		C: a SETACL Work -bob -p
		S: a OK *
		C: a DELETEACL Work -interns@example.test
		S: a OK *
		C: a GETACL Work
		S: * ACL Work eva@example.test lrswipkxteacd anyone@example.test p
		S: a OK *`,
	"RIGHTS=texk": `
		C: a CREATE Work
		S: a OK *
		C: a SETACL Work bob lrs
		S: a NO [CANNOT] Others can only have the right p: mailboxes are not shared
		C: a SETACL Work bob +texk
		S: a NO [CANNOT] Others can only have the right p: mailboxes are not shared
		C: a SETACL Work bob pcd
		S: a NO [CANNOT] Others can only have the right p: mailboxes are not shared
		C: a SETACL Work bob -texkcda
		S: a OK *
		C: a SETACL Work eva@example.test p
		S: a NO [CANNOT] The owner has all rights and keeps them
		C: a SETACL Work EVA ""
		S: a NO [CANNOT] The owner has all rights and keeps them
		C: a DELETEACL Work eva
		S: a NO [CANNOT] The owner has all rights and keeps them
		C: a SETACL inbox anyone ""
		S: a NO [CANNOT] INBOX takes mail from anyone
		C: a SETACL inbox bob p
		S: a NO [CANNOT] INBOX takes mail from anyone
		C: a SETACL inbox anyone +p
		S: a OK *
		C: a SETACL Work --bob p
		S: a NO [CANNOT] Rights are given to *
		C: a SETACL Work -bob pl
		S: a NO [CANNOT] Others can only have the right p: mailboxes are not shared
		C: a SETACL Work -eva p
		S: a NO [CANNOT] The owner has all rights and keeps them
		C: a SETACL inbox -bob p
		S: a NO [CANNOT] INBOX takes mail from anyone
		C: a SETACL Work "bob smith" p
		S: a NO [CANNOT] Rights are given to *
		C: a SETACL Work bob lrP
		S: a BAD A right is not known
		C: a SETACL Work bob q
		S: a BAD A right is not known
		C: a SETACL Work bob p0
		S: a BAD A right is not known
		C: a SETACL Work "" p
		S: a BAD *
		C: a SETACL Work bob
		S: a BAD *
		C: a SETACL Work bob p p
		S: a BAD *
		C: a GETACL Nowhere
		S: a NO [NONEXISTENT] *
		C: a SETACL Nowhere bob p
		S: a NO [NONEXISTENT] *
		C: a MYRIGHTS Nowhere
		S: a NO [NONEXISTENT] *
		C: a LISTRIGHTS Nowhere bob
		S: a NO [NONEXISTENT] *`,
	"LITERAL+": `
		C: a SELECT {5+}
		C: INBOX
		S: * FLAGS (*
		S: * OK [PERMANENTFLAGS *
		S: * 3 EXISTS
		S: * 0 RECENT
		S: * OK [UNSEEN 2] *
		S: * OK [UIDVALIDITY *
		S: * OK [UIDNEXT 4] *
		S: * OK [HIGHESTMODSEQ *
		S: * OK [MAILBOXID *
		S: a OK [READ-WRITE] *
		C: a APPEND INBOX {8+}
		C: A: b
		C: 
		C: 
		S: * 4 EXISTS
		S: a OK [APPENDUID * 4] *`,
	"ID": `
		C: a ID ("name" "test" "version" NIL)
		S: * ID ("name" "Postern")
		S: a OK *
		C: a ID NIL
		S: * ID ("name" "Postern")
		S: a OK *`,
	"ENABLE": `
		C: a ENABLE X-UNKNOWN CONDSTORE
		S: * ENABLED CONDSTORE
		S: a OK *
		C: a ENABLE CONDSTORE
		S: * ENABLED
		S: a OK *`,
	"IDLE": `
		C: a IDLE
		S: + *
		C: DONE
		S: a OK *
		L: SELECT INBOX
		C: a IDLE
		S: + *
		C: done
		S: a OK *`,
	"NAMESPACE": `
		C: a NAMESPACE
		S: * NAMESPACE (("" "/")) NIL NIL
		S: a OK *`,
	"UIDPLUS": `
		L: SELECT INBOX
		C: a COPY 1,3 Archive
		S: a OK [COPYUID * 1,3 1:2] *
		C: a UID COPY 77 Archive
		S: a OK Done
		C: a COPY 1 Nowhere
		S: a NO [TRYCREATE] *
		C: a STORE 1:3 +FLAGS.SILENT (\Deleted)
		S: a OK *
		C: a UID EXPUNGE 2:3
		S: * 2 EXPUNGE
		S: * 2 EXPUNGE
		S: a OK *
		C: a UID SEARCH ALL
		S: * SEARCH 1
		S: a OK *
		C: a APPEND Archive {6+}
		C: A: b
		C: 
		S: a OK [APPENDUID * 3] *`,
	"UNSELECT": `
		L: SELECT INBOX
		L: STORE 1 +FLAGS (\Deleted)
		C: a UNSELECT
		S: a OK *
		C: a FETCH 1 UID
		S: a BAD *
		C: a STATUS INBOX (MESSAGES DELETED)
		S: * STATUS INBOX (MESSAGES 3 DELETED 1)
		S: a OK *`,
	"CHILDREN": `
		L: CREATE a/b
		C: a LIST "" a*
		S: * LIST (\NonExistent \Noselect \HasChildren) "/" a
		S: * LIST (\HasNoChildren) "/" a/b
		S: a OK *`,
	"LIST-EXTENDED": `
		L: CREATE top/mid/low
		L: SUBSCRIBE top/mid/low
		L: SUBSCRIBE gone
		L: UNSUBSCRIBE Archive
		C: a LIST (SUBSCRIBED) "" ("t*" "g*" "Arch*")
		S: * LIST (\NonExistent \Noselect \HasNoChildren \Subscribed) "/" gone
		S: * LIST (\HasNoChildren \Subscribed) "/" top/mid/low
		S: a OK *
		C: a LIST (SUBSCRIBED RECURSIVEMATCH) "" t%
		S: * LIST (\NonExistent \Noselect \HasChildren) "/" top ("CHILDINFO" ("SUBSCRIBED"))
		S: a OK *
		C: a LIST (RECURSIVEMATCH) "" %
		S: a BAD *
		C: a LIST (REMOTE) "" Arch% RETURN (SUBSCRIBED CHILDREN)
		S: * LIST (\HasNoChildren \Archive) "/" Archive
		S: a OK *
		C: a LIST () "" (Sent Trash) RETURN (SUBSCRIBED)
		S: * LIST (\HasNoChildren \Subscribed \Sent) "/" Sent
		S: * LIST (\HasNoChildren \Subscribed \Trash) "/" Trash
		S: a OK *`,
	"LIST-STATUS": `
		L: CREATE top/low
		C: a LIST "" (INBOX top*) RETURN (STATUS (MESSAGES UNSEEN))
		S: * LIST (\HasNoChildren) "/" INBOX
		S: * STATUS INBOX (MESSAGES 3 UNSEEN 2)
		S: * LIST (\NonExistent \Noselect \HasChildren) "/" top
		S: * LIST (\HasNoChildren) "/" top/low
		S: * STATUS top/low (MESSAGES 0 UNSEEN 0)
		S: a OK *`,
	"SPECIAL-USE": `
		C: a LIST (SPECIAL-USE) "" %
		S: * LIST (\HasNoChildren \Archive) "/" Archive
		S: * LIST (\HasNoChildren \Drafts) "/" Drafts
		S: * LIST (\HasNoChildren \Junk) "/" Junk
		S: * LIST (\HasNoChildren \Sent) "/" Sent
		S: * LIST (\HasNoChildren \Trash) "/" Trash
		S: a OK *
		C: a LIST "" Junk RETURN (SPECIAL-USE)
		S: * LIST (\HasNoChildren \Junk) "/" Junk
		S: a OK *`,
	"CREATE-SPECIAL-USE": `
		C: a CREATE Old (USE (\Archive \Important))
		S: a OK [MAILBOXID *
		C: a LIST (SPECIAL-USE) "" Old
		S: * LIST (\HasNoChildren \Archive \Important) "/" Old
		S: a OK *
		C: a CREATE New (USE (\Unknown))
		S: a NO [USEATTR] *`,
	"MOVE": `
		L: SELECT INBOX
		C: a MOVE 1,3 Archive
		S: * OK [COPYUID * 1,3 1:2] *
		S: * 1 EXPUNGE
		S: * 2 EXPUNGE
		S: a OK *
		C: a UID MOVE 2 Nowhere
		S: a NO [TRYCREATE] *
		C: a UID MOVE 2 Trash
		S: * OK [COPYUID * 2 1] *
		S: * 1 EXPUNGE
		S: a OK *`,
	"ESEARCH": `
		L: SELECT INBOX
		C: a SEARCH RETURN (MIN MAX COUNT ALL) ALL
		S: * ESEARCH (TAG "a") MIN 1 MAX 3 ALL 1:3 COUNT 3
		S: a OK *
		C: a UID SEARCH RETURN () UNSEEN
		S: * ESEARCH (TAG "a") UID ALL 2:3
		S: a OK *
		C: a SEARCH RETURN (COUNT MIN) DELETED
		S: * ESEARCH (TAG "a") COUNT 0
		S: a OK *`,
	"SEARCHRES": `
		L: SELECT INBOX
		C: a SEARCH RETURN (SAVE) UNSEEN
		S: a OK *
		C: a FETCH $ UID
		S: * 2 FETCH (UID 2)
		S: * 3 FETCH (UID 3)
		S: a OK *
		C: a UID SEARCH RETURN (SAVE MIN) $
		S: * ESEARCH (TAG "a") UID MIN 2
		S: a OK *
		C: a UID STORE $ +FLAGS.SILENT \Deleted
		S: a OK *
		C: a EXPUNGE
		S: * 2 EXPUNGE
		S: a OK *
		C: a SEARCH $
		S: * SEARCH
		S: a OK *
		C: a SEARCH RETURN (SAVE) CHARSET KOI8-R ALL
		S: a NO [BADCHARSET *
		C: a FETCH $ FLAGS
		S: a OK *`,
	"CONDSTORE": `
		C: a STATUS INBOX (HIGHESTMODSEQ)
		S: * STATUS INBOX (HIGHESTMODSEQ 4)
		S: a OK *
		L: SELECT INBOX (CONDSTORE)
		C: a FETCH 1:* (MODSEQ)
		S: * 1 FETCH (MODSEQ (2))
		S: * 2 FETCH (MODSEQ (3))
		S: * 3 FETCH (MODSEQ (4))
		S: a OK *
		C: a STORE 1:2 (UNCHANGEDSINCE 2) +FLAGS (\Flagged)
		S: * 1 FETCH (UID 1 FLAGS (\Seen \Flagged) MODSEQ (5))
		S: a OK [MODIFIED 2] *
		C: a STORE 3 +FLAGS.SILENT (\Flagged)
		S: * 3 FETCH (UID 3 MODSEQ (6))
		S: a OK *
		C: a FETCH 1:* (FLAGS) (CHANGEDSINCE 4)
		S: * 1 FETCH (FLAGS (\Seen \Flagged) MODSEQ (5))
		S: * 3 FETCH (FLAGS (\Flagged) MODSEQ (6))
		S: a OK *
		C: a SEARCH MODSEQ 5
		S: * SEARCH 1 3 (MODSEQ 6)
		S: a OK *
		C: a SEARCH RETURN (MIN) MODSEQ "/flags/\\draft" all 4
		S: * ESEARCH (TAG "a") MIN 1 MODSEQ 5
		S: a OK *`,
	"QRESYNC": `
		C: a SELECT INBOX (QRESYNC (1 1))
		S: a BAD *
		L: ENABLE QRESYNC
		L: SELECT INBOX
		L: STORE 2 +FLAGS.SILENT (\Deleted)
		C: a EXPUNGE
		S: * VANISHED 2
		S: a OK [HIGHESTMODSEQ 6] *
		C: a UID FETCH 1:* (FLAGS) (CHANGEDSINCE 3 VANISHED)
		S: * VANISHED (EARLIER) 2
		S: * 2 FETCH (UID 3 FLAGS () MODSEQ (4))
		S: a OK *
		C: a FETCH 1:* (FLAGS) (CHANGEDSINCE 3 VANISHED)
		S: a BAD *
		L: UNSELECT
		C: a STATUS INBOX (UIDVALIDITY)
		V: * STATUS INBOX (UIDVALIDITY $)
		S: a OK *
		C: a SELECT INBOX (QRESYNC ($ 3 1:3 (1 1)))
		S: * FLAGS *
		S: * OK [PERMANENTFLAGS *
		S: * 2 EXISTS
		S: * 0 RECENT
		S: * OK [UNSEEN 2] *
		S: * OK [UIDVALIDITY *
		S: * OK [UIDNEXT 4] *
		S: * OK [HIGHESTMODSEQ 6] *
		S: * OK [MAILBOXID *
		S: * VANISHED (EARLIER) 2
		S: * 2 FETCH (UID 3 FLAGS () MODSEQ (4))
		S: a OK [READ-WRITE] *`,
	"STATUS=SIZE": `
		C: a STATUS INBOX (SIZE)
		S: * STATUS INBOX (SIZE 1095)
		S: a OK *`,
	"MULTIAPPEND": `
		C: a APPEND Archive (\Seen) {6+}
		C: A: b
		C:  (\Draft kw) " 2-Nov-2026 10:00:00 +0000" {8}
		S: + OK
		C+ Aa: bc\r\n\r\n
		S: a OK [APPENDUID * 1:2] *
		L: SELECT Archive
		C: a FETCH 1:* (FLAGS RFC822.SIZE)
		S: * 1 FETCH (FLAGS (\Seen) RFC822.SIZE 6)
		S: * 2 FETCH (FLAGS (\Draft kw) RFC822.SIZE 8)
		S: a OK *
		C: a APPEND Archive {6+}
		C: A: b
		C:  {0+}
		C: 
		S: a NO *`,
	"BINARY": `
		L: SELECT INBOX
		C: a FETCH 2 (BINARY.SIZE[2] BINARY.PEEK[2])
		S: * 2 FETCH (BINARY.SIZE[2] 5 BINARY[2] ~{5}
		B: 00 01 02 03 ff
		S: )
		S: a OK *
		C: a FETCH 2 BINARY.PEEK[2]<3.10>
		S: * 2 FETCH (BINARY[2]<3> {2}
		B: 03 ff
		S: )
		S: a OK *
		C: a FETCH 3 (BINARY[1])
		S: * 3 FETCH (FLAGS (\Seen) BINARY[1] {9}
		S: Grüße
		S: )
		S: a OK *
		C: a APPEND INBOX ~{6+}
		C: A: b
		C: 
		S: * 4 EXISTS
		S: a OK [APPENDUID * 4] *
		C: a APPEND INBOX ~{8+}
		C+ A: b\r\n\0\r\r\n
		S: a NO [UNKNOWN-CTE] *`,
	"OBJECTID": `
		C: a STATUS INBOX (MAILBOXID)
		S: * STATUS INBOX (MAILBOXID (F*))
		S: a OK *
		L: SELECT INBOX
		L: COPY 1 Archive
		C: a FETCH 1 (EMAILID THREADID)
		V: * 1 FETCH (EMAILID ($) THREADID NIL)
		S: a OK *
		C: a SEARCH EMAILID $
		S: * SEARCH 1
		S: a OK *
		C: a SEARCH THREADID T1
		S: * SEARCH
		S: a OK *
		L: SELECT Archive
		C: a FETCH 1 EMAILID
		S: * 1 FETCH (EMAILID ($))
		S: a OK *`,
	"SAVEDATE": `
		L: SELECT INBOX
		C: a FETCH 1 SAVEDATE
		S: * 1 FETCH (SAVEDATE "*")
		S: a OK *
		C: a SEARCH SAVEDSINCE 1-Jan-2020 SAVEDATESUPPORTED
		S: * SEARCH 1 2 3
		S: a OK *
		C: a SEARCH OR SAVEDBEFORE 1-Jan-2020 SAVEDON 1-Jan-2020
		S: * SEARCH
		S: a OK *`,
	"WITHIN": `
		L: APPEND INBOX "01-Jan-2020 00:00:00 +0000" {1+}\r\nA
		L: SELECT INBOX
		C: a SEARCH OLDER 3600
		S: * SEARCH 4
		S: a OK *
		C: a SEARCH YOUNGER 3600
		S: * SEARCH 1 2 3
		S: a OK *
		C: a SEARCH YOUNGER 0
		S: a BAD *`,
	"UTF8=ACCEPT": `
		C: a APPEND INBOX UTF8 (~{6+}
		C: A: b
		C: )
		S: a BAD *
		L: ENABLE UTF8=ACCEPT
		C: a CREATE "Größe"
		S: a OK *
		C: a LIST "" "Gr*"
		S: * LIST (\HasNoChildren) "/" "Größe"
		S: a OK *
		C: a APPEND "Größe" (\Seen) UTF8 (~{6+}
		C: A: b
		C: )
		S: a OK [APPENDUID * 1] *
		L: SELECT INBOX
		C: a SEARCH SUBJECT "Grüße"
		S: * SEARCH 3
		S: a OK *
		C: a SEARCH CHARSET UTF-8 ALL
		S: a BAD *`,
	"QUOTA": `
		C: a GETQUOTAROOT INBOX
		S: * QUOTAROOT INBOX
		S: a OK *
		C: a GETQUOTA ""
		S: a NO [NONEXISTENT] *
		C: a GETQUOTAROOT nowhere
		S: a NO [NONEXISTENT] *
		C: a SETQUOTA "" (STORAGE 512)
		S: a NO [NOPERM] *
		C: a SETQUOTA "" ()
		S: a NO [NOPERM] *
		C: a SETQUOTA "" (STORAGE)
		S: a BAD *
		C: a GETQUOTA
		S: a BAD *
		C: a GETQUOTAROOT
		S: a BAD *`,
	"QUOTA=RES-STORAGE": `
		C: a STATUS INBOX (DELETED-STORAGE DELETED)
		S: * STATUS INBOX (DELETED 0 DELETED-STORAGE 0)
		S: a OK *
		L: SELECT INBOX
		L: STORE 1:2 +FLAGS.SILENT (\Deleted)
		C: a STATUS INBOX (DELETED-STORAGE)
		S: * STATUS INBOX (DELETED-STORAGE *)
		S: a OK *`,
	"QUOTA=RES-MESSAGE": `
		L: SELECT INBOX
		L: STORE 2 +FLAGS.SILENT (\Deleted)
		C: a STATUS INBOX (MESSAGES DELETED)
		S: * STATUS INBOX (MESSAGES 3 DELETED 1)
		S: a OK *`,
	"APPENDLIMIT=52428800": `
		C: a STATUS INBOX (APPENDLIMIT)
		S: * STATUS INBOX (APPENDLIMIT 52428800)
		S: a OK *
		C: a APPEND INBOX {52428801}
		S: a NO [TOOBIG] *
		C: a NOOP
		S: a OK *`,
	"before login SASL-IR": `
		C: a AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==
		S: a OK [CAPABILITY *`,
	"before login AUTH=EXTERNAL": `
		C: a AUTHENTICATE EXTERNAL
		S: + 
		C: ZXZhQGV4YW1wbGUudGVzdA==
		S: a OK [CAPABILITY *`,
	"before login AUTH=PLAIN": `
		C: a AUTHENTICATE PLAIN
		S: + 
		C: *
		S: a BAD *
		C: a AUTHENTICATE PLAIN
		S: + 
		C: AGV2YUBleGFtcGxlLnRlc3QAc2VjcmV0
		S: a OK [CAPABILITY *`,
	"without passwords LOGINDISABLED": `
		C: a LOGIN eva@example.test secret
		S: a NO [PRIVACYREQUIRED] *
		C: a AUTHENTICATE PLAIN AGV2YUBleGFtcGxlLnRlc3QAc2VjcmV0
		S: a NO *
		C: a AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==
		S: a OK *`,
}

// threeMessages are in INBOX when a dialog begins: plain text, a multipart
// with a message inside, text in UTF-8 with an encoded subject.
var threeMessages = []struct{ flags, text string }{
	{`\Seen`, crlf(`From: Ann <ann@example.net>
To: eva@example.test
Subject: First
Date: Mon, 2 Nov 2026 10:00:00 +0100
Message-ID: <1@example.net>
Content-Type: text/plain

Hello, World
`)},
	{``, crlf(`From: "Bob B." <bob@example.org>
To: Eva <eva@example.test>, ann@example.net
Cc: Carl <carl@example.com>
Subject: Second
Date: Tue, 3 Nov 2026 23:30:00 -0500
Message-ID: <2@example.org>
In-Reply-To: <1@example.net>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=xx

preamble
--xx
Content-Type: text/plain; charset=us-ascii

First part
--xx
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename=a.bin

AAECA/8=
--xx
Content-Type: message/rfc822

From: inner@example.net
Subject: Inside
Content-Type: multipart/alternative; boundary=yy

--yy

inner text
--yy
Content-Type: text/html

<p>inner html</p>
--yy--

--xx--
`)},
	{``, crlf(`From: =?iso-8859-1?q?J=F6rg?= <joerg@example.net>
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe
`)},
}

func TestConformance(t *testing.T) {
	for name, dialog := range conformance {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(c *Config) { c.PasswordLogin = !strings.HasPrefix(name, "without passwords ") })
			if strings.HasPrefix(name, "before login ") || !f.srv.cfg.PasswordLogin {
				c := f.dial()
				c.line()
				c.talk(dialog)
				return
			}
			f.withMessages().talk(dialog)
		})
	}
}

// withMessages returns a client that has logged in and has threeMessages.
func (f *fixture) withMessages() *client {
	f.t.Helper()
	c := f.login("eva@example.test")
	for _, m := range threeMessages {
		c.appendMail("INBOX", m.flags, m.text)
	}
	return c
}

// TestCapabilitiesCovered fails when what the server lists and what has a
// dialog differ.
func TestCapabilitiesCovered(t *testing.T) {
	listed := map[string]bool{}
	add := func(line string) {
		_, after, ok := strings.Cut(line, "CAPABILITY ")
		if !ok {
			t.Fatalf("no capabilities in %q", line)
		}
		after, _, _ = strings.Cut(after, "]")
		for name := range strings.FieldsSeq(after) {
			listed[name] = true
		}
	}
	for _, passwords := range []bool{false, true} {
		f := start(t, func(c *Config) { c.PasswordLogin = passwords })
		c := f.dial()
		add(c.line())
		add(c.do("CAPABILITY")[0])
		lines := c.ask("AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==")
		add(lines[0])
		add(c.do("CAPABILITY")[0])
	}
	covered := map[string]bool{}
	for name := range conformance {
		covered[name[strings.LastIndexByte(name, ' ')+1:]] = true
	}
	got, want := slices.Sorted(maps.Keys(listed)), slices.Sorted(maps.Keys(covered))
	if !slices.Equal(got, want) {
		t.Errorf("listed  %q\ncovered %q", got, want)
	}
}
