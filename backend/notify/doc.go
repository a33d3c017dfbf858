/*
Package notify tells sessions that a mailbox changed: IDLE, and later push.

A watcher's channel holds at most one token. Wake puts one in unless one waits
already, so any number of changes between two looks costs one wake-up, and a
change after a look is never missed. Wake never blocks and starts nothing:
a session that does not read costs nothing more.

Package notify does not say what changed; that is in the store.
*/
package notify
