/*
Package milter asks filters of mail by the milter protocol, version 6: the one of
Sendmail and Postfix, which spam and virus filters and DKIM signers speak. It is
the client, the place of the mail server.

	Open                        negotiate, connect
	Hello, Mail, Rcpt           helo, mail, rcpt
	Message                     data, header ..., eoh, body ..., eom -> what to change
	Reset, Close                abort, quit

What it keeps true:

  - A filter that cannot be reached, takes too long, ends or answers nonsense never
    loses a message or adds to one: Config.OnFailure is done, and what the filter
    had changed of that message is forgotten. The rest of the session does not ask
    it. A call that its caller gives up is refused for now, whatever OnFailure says.
  - No call takes longer than the time limits say. A filter that makes progress at
    the end of a message has MessageTimeout anew, up to MessageTotal.
  - What comes back is bounded: MaxReply octets for one message, 5,000 changes,
    128 KB for another command. Memory is taken as octets come.
  - The message that results has strict CRLF, no NUL, and a header that is one:
    each value stays in its field. What is not changed stays octet by octet.
    Changes that cannot be meant, a name that is no name of a field, an address
    that is none, are left out with a line in the log.
  - The text of a filter has no control octets when it comes to a reply, to
    Verdict.Hold or to the log.

After a session that could not be begun none is tried for a second, then two, up to
30, and then by one client only: a dead filter does not cost each of them
ConnectTimeout.

Events and answers. Events that a filter does not want are not sent, but their
macros are, and it may say for each kind that it does not answer. accept at
connect or helo ends asking for the session, later for the message. reject,
tempfail and a reply of its own (4yz or 5yz, also of several lines) at connect or
helo refuse all that follows; at rcpt, the recipient alone. discard counts from
mail on. shutdown is 421. skip ends recipients, fields or body. A reply that cannot
be read is 451 4.7.1 or 550 5.7.1 by its first digit. "%%" in it is "%".

Header and body. A filter is told the fields as they are folded, with LF, without
the one space behind the colon unless it asks for it (SMFIP_HDR_LEADSPC). The
header ends at the empty line or before the first line that is no part of a header;
all that follows is told as body, and when the filter changes something gets the
empty line before it. Places are counted as in Sendmail and Postfix, whose own
Received field is the first and not told: fields inserted at 0 and at 1 are both at
the top here, since the Received field of this relay is put before them. Changes
are done in the order in which they come; the third Received after the first was
removed is the one that was the fourth. A changed field that is not there is added
at the end.

Macros, unless a filter asks for others:

	connect  j {daemon_name} {daemon_addr} {daemon_port} v _
	         {client_addr} {client_name} {client_port} {client_ptr}
	helo     {tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}
	mail     i {auth_type} {auth_authen} {mail_addr} {mail_host} {mail_mailer}
	rcpt     i {rcpt_addr} {rcpt_host} {rcpt_mailer}
	data, eoh, eom   i

{daemon_name} is the service, i the queue id from MAIL on. {cert_subject} and
{cert_issuer} are the common names of a certificate that was verified. {auth_type}
is the SASL mechanism, AUTH where it is not known any more. The mailers are smtp. A
client that is not known any more is of an unknown family, not localhost.

What it leaves out: refused recipients (SMFIP_RCPT_REJ), unknown commands, parameters
of MAIL but for SIZE, BODY and SMTPUTF8, those of RCPT, and those that a filter gives
with a sender or a recipient.

A session with one message costs 0.13 ms of a processor with a filter that wants
nothing but the end, 0.6 ms with one that wants to answer for each of 25 fields, and
1 ms with one that wants a body of 1 MB as well (BenchmarkMessage).

Sources: libmilter's documentation and mfdef.h (Sendmail 8.17), MILTER_README and
behaviour of Postfix 3.7, with which the tests compare. DESIGN.md says why the
client is not that of a library.

Package milter decides nothing about mail and knows no list of filters: who asks
which filters in what order is the caller's.
*/
package milter
