/*
Package autoreply answers mail for people who are away (directory.md 10). It
stands in front of the agent that delivers to the pairs:

	Deliver -> may this message be answered at all?  no: deliver without asking
	        -> lmtp, with the question               pair: delivered, answer or not
	        -> answer: compose -> door -> queue

What it keeps true:

  - One answer per sender and period over all relays: who was answered is
    remembered by the recipient's pair, in the entry that delivers the message.
    A pair that cannot be reached, or does not know the question, answers
    nobody.
  - A delivery that is repeated under its key is told the same again, and its
    answer has the same queue id, octets and delivery keys. The pair decides
    whether there is an answer; the relay whose queue has the cause makes it, and
    that queue remembers its id on disk after the answer has left, longer than
    the cause can stay. So a cause that is delivered again, after a crash or by
    another relay that took the queue over, sends no second one. What was not
    queued before the crash is queued then. (A client that heard no 250 sends
    another message, and the pair knows that its sender was answered.)
  - No answer to nobody, to mailing lists and programs, to mail that was not
    addressed to the person, to spam (RFC 3834 2, RFC 5230 4.5 and 4.6). Such
    mail is not asked about, so it leaves no trace in the memory.
  - An answer has the null reverse-path and says that it was made by a program;
    it is never answered by one of ours.
  - Sizes are bounded, and the answers of one person, and those to one sender,
    in an hour on this relay.

The outcome of a delivery never depends on the answer: one that cannot be queued
is lost, and logged. Mail that is only to be answered counts as delivered when
the question is settled, or when it may not be answered.

Package autoreply does not choose the text (package expand does) and remembers
nobody (the pair does).
*/
package autoreply
