/*
Package mailbox is the one door to the mail of a pair: what can be done to
accounts, mailboxes and messages, for LMTP, IMAP and POP3 alike.

	Service -> Account -> View -> Content
	   |  writes: Log.Propose, one entry of package command each
	   `- reads:  store.Snapshot, after Log.Confirm

What it promises:

  - A method that changes something returns nil only after a majority of the
    pair has the entry on disk and this replica has applied it. An error that
    is not *ErrNotServing or ErrBusy leaves the outcome unknown.
  - A method that reads answers only while this replica holds its lease.
  - A View's numbering changes in Sync and nowhere else.
  - What is proposed has been checked: names, sizes, numbers. Time, random
    numbers and the structure of messages are put into the entry here, so that
    the state machine needs none of them.
  - Octets on their way are bounded by Config.InFlight over all sessions.

It does not know a protocol, it checks no password, and it never writes to the
store: that is package fsm.
*/
package mailbox
