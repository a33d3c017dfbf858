/*
Package autoreply answers mail for people who are away (directory.md 10). It
stands in front of the agent that delivers to the pairs:

	Deliver -> may this message be answered at all?  no: deliver without asking
	        -> lmtp, with the question               pair: delivered, answer due or not
	        -> answer: compose -> door -> queue
	queue   -> Deliver or Gate: claim the answer     pair: granted -> the agent of its channel
	                                                       refused -> dropped

What it keeps true:

  - One answer per sender and period over all relays, and none is lost: the
    recipient's pair is the memory, and nothing else is. That an answer is due is
    written with the delivery, and stays so until an answer is claimed, when it is
    safe in a queue and about to leave. The first that claims is sent; every other
    one, of a delivery that was repeated, of the next message, by another relay, is
    dropped. So a relay may die anywhere: before its answer is queued, the message
    is sent again, under its key or as another one, and told that the answer is
    due; afterwards the queue has it, and claims it under the same key again.
  - A delivery that is repeated under its key has an answer with the same queue id,
    octets, delivery keys and claim.
  - A pair that cannot be reached, or does not know the question, answers
    nobody. A pair of the release before, which knows no claims, gives the answer
    to the delivery that asks first: what is lost or doubled by a crash then stays
    so.
  - An answer that was claimed and has left can be sent again by a crash of its
    relay, as any other message.
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
