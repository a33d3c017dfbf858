/*
Package history says what an account's mailbox may answer, and has porcupine look
whether the answers that several clients got at the same time can have been given
in some order. A test records each question and what came back:

	h := history.New()
	call := h.Call(client, history.Input{Account: "eva", Kind: history.Append, Size: 100})
	...
	call.Return(history.Output{UID: 7})
	err := h.Check(time.Minute)

The model has one mailbox an account. UIDs are given one after the other, MODSEQ
is one more with each command that changes something, a quota of messages and
octets holds for additions that are not forced, and a delivery whose key was seen
changes nothing and answers as then. So a UID that is given twice, a MODSEQ that
stays or falls, a quota that is passed, a second copy, an answer that is older
than one given before, and a change that is lost after its answer are all found
as histories with no order.

A question that was refused outright did not happen and is dropped (Drop). One
whose outcome is unknown (Unknown) may happen at any later time, or never: it is
one that returns after the end of the history.
*/
package history
