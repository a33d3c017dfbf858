/*
Package mailbox is the one door to the mail of a pair: what can be done to
accounts, mailboxes and messages, for LMTP, IMAP and POP alike.
*/
package mailbox
