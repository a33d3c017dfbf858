/*
Package pop3d is the POP3 server of a backend (RFC 1939, CAPA of RFC 2449, SASL
of RFC 5034). It translates: everything it knows of mail comes from package
mailbox.

A session sees the INBOX as it was at login: message numbers and sizes do not
change, mail that arrives later is for the next session. One session an account
at a time (RFC 1939 section 4); the second is told [IN-USE]. DELE takes effect
at QUIT only, in one log entry: +OK to QUIT means that a majority of the pair
has it on disk. A UIDL is UIDVALIDITY and UID, so it survives failover.

A session of a proxy that has said XRESUME 0 goes on at another replica when this
one hands over (resume.go), with the same numbers, sizes and marks. Others are
closed, and nothing is deleted.

Passwords are not checked here: Config.Authenticate does that, and behind a
relay it trusts the relay's certificate. STLS is the relay's business; this
listener is TLS from the first byte or, for measuring only, plain.
*/
package pop3d
