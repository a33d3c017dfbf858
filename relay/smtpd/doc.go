/*
Package smtpd is the relay's SMTP and submission service: it turns the verbs of
one session into calls on a transaction.

Two roles. MX, on port 25, takes mail for our own domains from anybody and never
relays for strangers; clients of listed networks may relay. Submission, on 587
and 465 (RFC 6409, RFC 8314), wants authentication before MAIL, may relay, and
adds Date and Message-ID where they are missing.

A session is looked at before its banner: the limits of this service per client
address, in sessions and in sessions per minute, then the filters of all mail in
their order, which follow it from there on. What is refused there costs the
client its connection: 421 4.3.2 when we are too busy, 421 4.7.0 when the client
asks for too much.

Package smtpd speaks no protocol (package smtp does) and knows no recipients
(package expand does).
*/
package smtpd
