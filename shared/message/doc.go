/*
Package message reads Internet messages (RFC 5322, RFC 2045 to 2049) by the
offsets of their octets, and writes the header fields that a mail server adds.

	Parse -> *Part -> AppendBinary -> database row -> DecodePart
	                -> AppendEnvelope, AppendBodyStructure -> IMAP client
	                -> Find, Decoded, Text -> BODY[...], BINARY[...], SEARCH

Parse never fails. What it cannot read it describes as a reader of the rules of
RFC 2045 would have to treat it, and what goes beyond a limit (MaxDepth,
MaxParts, MaxHeader, MaxParams, MaxAddresses) more coarsely: delivery never
depends on the form of a message. Its time is linear in the length of the
message and its memory is bounded by the length of the header blocks and by
the limits. It keeps no reference to the octets given to it.

Every span of a Part lies inside the body of the part that contains it, in the
order of the message. A line ends with LF; a CR before it belongs to the line
end. Offsets and sizes count octets as they are stored, which is what IMAP
must report when messages are stored with CRLF.

Where the rules are silent (odd addresses, missing charset, stray delimiters),
the description is the one that Dovecot gives to IMAP clients, which is what
clients in the field are tested against.

What is written here is safe by construction: no value, wherever it came from,
can end a header field or begin another one.

Package message does not read or store messages, and it knows no connection
and no clock. What a client may ask for is package imapd's question.
*/
package message
