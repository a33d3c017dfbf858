/*
Package list makes the copy of a message that a mailing list sends, and the one
that somebody gets who is to see what others are sent.

	message, Changes -> Apply -> message with other fields, texts, subject
	message, Capture -> Wrap  -> report with the message inside

What it keeps true:

  - The same message and the same changes give the same octets: a copy made
    again after a crash is the same copy.
  - The fields of other lists, by which the message came, are not passed on.
  - Fields are removed before others are added, so that a list can replace
    Reply-To. What is added cannot end a field or begin another one.
  - A text goes into the first text part in that part's charset and transfer
    encoding; where these have no room for it, the part becomes UTF-8 in
    quoted-printable. What is signed or encrypted is never touched: the text is
    left out, and Apply says so. It says so too when what it changes ends a
    signature of the sender's domain (DKIM), which covers fields and body.
  - Octets that are not changed are those of the message.

Package list knows no directory and queues nothing.
*/
package list
