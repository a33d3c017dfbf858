/*
Package mail is the vocabulary of the house: Address, Envelope, Recipient,
Status and Error. It imports the standard library only and every other package
may import it.

An Address that this package has parsed prints to something that every SMTP
server reads back as the same address: quoting is kept by meaning, not by
spelling, and no control byte passes the parser (RFC 5321 4.1.2, RFC 6531).

An error that nobody classified is temporary: a fault of ours must never bounce
mail. See Permanent.

Package mail does not know how addresses are looked up or where mail goes.
*/
package mail
