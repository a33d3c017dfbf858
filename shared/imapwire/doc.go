/*
Package imapwire reads and writes IMAP as octets: for the server
(backend/imapd) and for the access proxy, which must agree about where a
command ends.

A Reader frames what a peer sends into lines and literals. Line returns a line
with the CRLF that ends it; a line that ends in {n}, {n+}, ~{n} or ~{n+}
announces n octets of literal (RFC 9051 4.3, RFC 7888, RFC 3516). What happens
to them is the caller's decision, made from the size before an octet of them is
read: Inline keeps them in the command's text, ReadFull, Next and Discard take
them out of it. A synchronising literal is refused by not asking for it. So
nothing that a peer announces is believed, and nothing that it sends is ever
read as something else than what it was framed as. ReadCommand and ReadResponse
do the same for a proxy that passes commands and responses through.

A Parser takes tokens out of one command's text. It does no input or output,
its results are parts of the text, and its errors stick: a caller reads a whole
construct and asks once. Depth and number of elements are bounded.

A Writer collects output and sends it in pieces of about 64 KB. The Append
functions write tokens into any slice and allocate nothing: strings, mailbox
names (modified UTF-7 or UTF-8), dates, number sets.

Buffers come from pools. A connection that waits for a command holds one of
8 KB; one that waits in Wait holds none.

Package imapwire knows no command, no capability and no state of a session.
*/
package imapwire
