/*
Package imapd is the IMAP server of a pair: IMAP4rev1 (RFC 3501), IMAP4rev2
(RFC 9051) and the extensions that CAPABILITY lists, over package mailbox. It
is spoken to by access proxies that have authenticated the user; the proxy's
certificate is the credential and the user's name its authorization identity.

	conn -> imapwire.Reader -> session: one command at a time -> mailbox
	     <- imapwire.Writer <-         one file a command     <-

A tagged OK to a command that changes something is sent after the change is
committed by the pair's majority and applied here. When it is not known whether
a change was made, no tagged answer is sent: the connection ends with BYE. When
this replica does not serve, or stops serving, the answer is NO [UNAVAILABLE]
or BYE [UNAVAILABLE], so that the proxy can look for the one that does. To a
proxy that has said "x-resume" "1" in its ID it says OK [XRESUME state] instead:
with XRESUME state as its first command a session at another replica goes on with
the mailbox as the client knows it, what was enabled and the saved result. A state
is no secret and no credential: it names a mailbox of the user who gives it. In IDLE
and after some seconds without a command it tells a proxy that has said "x-waiting"
"1" its state beforehand, OK [XWAITING state], so that such a session goes on after a
crash too.

What other sessions change is sent during IDLE at once and before each tagged
OK, except that no message disappears during FETCH, STORE or SEARCH without UID
(RFC 9051 7.5.1).

A mailbox has a list of rights (RFC 4314) once the pair is on level 2. It is about
mail to the mailbox's address and nothing else: a session sees its own user's
mailboxes only, who has all rights in them and cannot lose any. Anybody else can
have p, the right to post, by SETACL, and LISTRIGHTS offers nothing else; SETACL of
another right is NO. With "-" before the identifier the right is taken from who
would have it by another line. INBOX takes all mail and has no list.

Who has a quota sees it by GETQUOTA and GETQUOTAROOT (RFC 9208): one root for all
mailboxes, as the directory says. SETQUOTA is NO.

A literal is never read as anything else: one that is too large is refused
before it is sent if its sender waits, and skipped or answered with BYE if not.
Memory, time and number of everything a client can ask for are bounded by
Config and by the limits of package imapwire. What a client sends that is wrong
gets BAD or NO and changes nothing; ten BAD in a row end the connection.

A connection has one goroutine, and one more while it waits in IDLE with a
mailbox selected. It holds no buffers then, nor after some seconds without a
command.

Package imapd does not store, count quota or check passwords: those are
packages mailbox and, by Config.Authenticate, the caller's question.
*/
package imapd
