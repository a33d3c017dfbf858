/*
Package rotate changes a running cluster under load: keys of gossip, certificates
and their CA, relays that drain and return. A ledger outside says that nothing
acknowledged was lost or doubled, and a user at work that no session was broken.
*/
package rotate
