/*
Package proxy is the access proxy of a relay: it reads the login of an IMAP or
POP3 client, has the password checked, finds the user's pair, opens a session on
the replica that serves it as that user, and from then on passes commands and
answers through.

What it keeps true:

  - A password that the directory did not confirm never reaches a backend. A
    backend never sees a password at all: the proxy logs in with its own
    certificate and SASL EXTERNAL, the user's account as the authorization
    identity, and an ID command that names the real client.
  - A client whose pair has no serving replica is told so within Config.Within
    (5 s): NO [UNAVAILABLE], or -ERR [SYS/TEMP].
  - Bytes that arrive before a TLS handshake end the connection (STARTTLS
    injection), and nothing a client says before its login is passed on.
  - The proxy knows where each command begins and ends and which are
    unanswered. It never passes half a command to a replica as a whole one, and
    when the replica goes away it says BYE instead of leaving the client to
    guess. So it does a second after another replica has come to serve: the one
    before may be frozen or cut off, and would leave its clients waiting.

A pair may answer a login with the name of another one, to which the user has
moved ("pair=NAME"): what Config.Login knew was old. The proxy then asks there, one
time, and Config.Moved is told.

A replica that hands over ends its sessions between two commands and gives each
one's state (XRESUME, packages imapd and pop3d). The proxy takes it to the replica
that serves, sends again there what the first has not answered, and the client
notices nothing but the time. Up to 8 MB of a command and 64 MB of all are kept in
memory for that, more in files: 256 MB of a command and 1 GB of all. When the session
cannot go on, as with a replica of an older release, an IMAP client is told BYE, and
the connection of a POP3 client is closed. A session in IDLE, or some seconds after its
last command, goes on in the same way when its replica ends without a word: the proxy
keeps the state, of at most some kilobytes, that the replica has told beforehand
(XWAITING). Whoever has commands under way then is told BYE. Of a client with 1000 commands that are
not answered no more is read.

When more log in at once than the processors have time for, as all users of a pair
do after a failover, they take turns in the order of their coming (gate): for the
keys of a handshake, and at the pair's replicas, for which one waits for half of
Config.PreAuth at most. Mail that the same host takes goes on.

A session that is idle holds no buffer. Package proxy does not check passwords
(Config.Login does) and does not know who serves (Config.Routes does).
*/
package proxy
