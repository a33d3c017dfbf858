/*
Package welcome puts the first message into new mailboxes (directory.md 3,
mailDomainWelcomeMessage). It stands in front of the agents that deliver to the
pairs:

	Deliver -> the pair: delivered, and the mailbox was made at T
	        -> the domain's text as a message -> door -> queue -> the same pair

What it keeps true:

  - A mailbox gets one. The message's delivery key, queue id and octets follow
    from the mailbox and from when it was made alone, so whichever relays send
    it, however often, the pair stores the first; and the pair, which knows the
    key, asks for no other. The text is that of the delivery that is told.
  - It is asked for until it is there: the pair says that a mailbox is new with
    every delivery to its INBOX of the first day, until it has the welcome. What
    is lost with a relay is sent after the next message.
  - It is behind the message that made the mailbox, or that was the first one
    after its owner had logged in. Mail that is put into other folders, or not
    stored, asks nobody.
  - It goes to the mailbox itself, whatever the directory says of its user's
    mail, is never answered, and nobody hears when it cannot be delivered.

The outcome of a delivery never depends on the welcome.

Package welcome does not choose the text: package expand does.
*/
package welcome
