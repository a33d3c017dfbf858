/*
Package smtp delivers to other domains by SMTP, over the mail exchangers that
the DNS names (RFC 5321 5.1), or over a smarthost.

	Deliver -> exchangers by preference -> connect, STARTTLS -> one transaction
	        <- one result per recipient

What it keeps true:

  - Nothing leaves with a bare CR, a bare LF or a NUL, and no address that does
    not read back as itself.
  - A reply 5yz refuses, 4yz and silence defer. A failure of the DNS defers; only
    "no such domain", a null MX (RFC 7505) and our own name as the best exchanger
    fail. Silence after the final dot is an unknown outcome.
  - TLS is used where it is offered, without asking who the peer is; a handshake
    that fails is followed by an attempt in the clear unless TLS is required.
  - It never connects to this relay itself.
  - Every phase has a deadline, and the context's end cuts all of them short.

The protocol's client is go-smtp. The greeting, EHLO and STARTTLS are done here
first: that client cannot say its name before STARTTLS.

Package smtp keeps connections for a few seconds, for the next message to the
same domain. It decides about no retry.
*/
package smtp
