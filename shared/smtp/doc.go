/*
Package smtp is the SMTP and LMTP engine of the house, server and client: lines,
commands, replies, message data, limits and time (RFC 5321, RFC 2033).

What it keeps true:

  - Only CRLF ends a line and only CRLF.CRLF ends DATA. A message that holds a
    bare CR, a bare LF or a NUL never reaches a Session and never leaves a
    Client; see LineEnds for the one exception.
  - Bytes of a message never run as commands. A read that times out or fails
    ends the connection, whatever the phase.
  - Bytes received before a TLS handshake are never used after it.
  - Every command has exactly one reply, in order; in LMTP every accepted
    recipient has exactly one reply after the message.
  - Memory, lines, counts and the time of each phase are bounded by Limits.

A Server serves each connection in the goroutine that calls ServeConn and
starts no other. Replies are written together: only when the next command has
not arrived yet.

A Client sends MAIL, all RCPT and DATA in one write where the peer offers
PIPELINING. It reports which answers arrived and whether the end of the message
may have reached the peer, so that the caller can tell a failure from an
unknown outcome.

Package smtp knows nothing of users, domains, queues or policy: a Session
decides those. It resolves no names and chooses no servers.
*/
package smtp
