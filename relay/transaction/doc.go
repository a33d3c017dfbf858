/*
Package transaction is one mail transaction, from MAIL to the final reply: the
one door by which mail enters the relay. SMTP and submission sessions, bounces
and reprocessed lists all begin one here, and nobody else calls queue.Submit.

	Begin -> Rcpt ... -> Data -> through the pairs -> 250 | 4yz | 5yz
	                          `-> queue.Submit for what remains

What 250 promises: every recipient is committed by its pair's majority, or is
on this relay's disk with the same delivery key, or was refused for good and
the notice about it is on this relay's disk. The whole rule, for recipients
that go through:

	room for the message cannot be reserved   452, nobody has been asked
	every recipient known 5yz                 that 5yz; too big for one is its 5yz
	some committed or unknown                 250, the rest is queued first
	none committed or unknown, some 4yz       queued and 250, or 451 if that fails

A pair that misses its deadline is bypassed to the queue, until a probe and
then one trial transaction succeed, or the queue gets a message through.
Recipients outside, lists to reprocess, held recipients and everything that the
relay itself makes are always queued.

Filters of all mail are told of MAIL and each RCPT that is accepted, and judge the
message before anything else is done with it. Those that recipients opted in to
(Config.Filters) come next, about those recipients only. Recipients whose filters
make other octets of the message, or hold it, are a part of their own: another
message of the queue under the same root queue id, so that keys and promises are
the same. Until every filter has spoken nobody has the message; one temporary
refusal is therefore the answer for all. Who is refused for good while others are
not is reported on, held or dropped, as the filter's settings say.

Who captures what a sender sends is a recipient like any other (Config.Copies).
What a user submits leaves with the user's primary address in place of
alternate ones (Config.Reverse); nothing else of a message is changed here.

Every message gets one Received field here, as a segment of its own before the
client's octets, whose body is never copied. It names no recipient. Delivery keys
are made here, from the origin relay, the root queue id and the final mailbox
and folder, and recipients that come to the same key are one.

Wiring, in this order: maillog.Open, queue.Open, dns, expand, lmtp.New,
transaction.New, smtp (outbound) and reprocess agents, bounce.New, jobctl.New,
then q.OnSubmit(jobctl.Submitted), acceptor.OnReady(jobctl.Wake for
tcp_lmtpcs), smtpd.New for each service, dispatcher.New. Shut down in reverse:
dispatcher, jobctl, acceptor, agents, queue, maillog.

Package transaction does not look up addresses (package expand), does not
retry (package jobctl) and speaks no protocol.
*/
package transaction
