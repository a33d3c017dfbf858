/*
Package auth has the server's side of SASL (RFC 4422) for the mechanisms PLAIN,
LOGIN and EXTERNAL, and the check of a password against the schemes found in
userPassword values.

A mechanism is a small state machine over decoded octets: the protocol servers
add base64, line limits and the "*" that cancels. What it yields are
Credentials; whether they are right is asked of the directory.

Passwords are compared in constant time, and a stored value that cannot be read
never matches. Nothing here keeps or logs a password.
*/
package auth
