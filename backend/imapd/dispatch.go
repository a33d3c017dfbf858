package imapd

import (
	"github.com/postern-mail/postern/shared/imapwire"
)

// Where in a session a command may be used (RFC 9051 3).
const (
	anyState = iota
	beforeLogin
	afterLogin
	withMailbox
)

// command is one command of the protocol. run finds the text behind the name
// in session.p; a framed one reads its literals itself and gets the first.
type command struct {
	name   string
	state  int
	uid    bool // may be written with UID
	fixed  bool // without UID, no message disappears during it
	framed bool
	always bool // tells changes even when none was announced
	quiet  bool // tells no changes
	run    func(s *session, rest int, lit imapwire.Literal, has bool) error
}

// plain adapts the commands that need no more than their text.
func plain(f func(*session) error) func(*session, int, imapwire.Literal, bool) error {
	return func(s *session, _ int, _ imapwire.Literal, _ bool) error { return f(s) }
}

var commands map[string]*command

func init() { // the table refers to functions that refer to it
	list := []command{
		{name: "CAPABILITY", run: plain((*session).capability)},
		{name: "NOOP", always: true, run: plain((*session).noop)},
		{name: "LOGOUT", run: plain((*session).logout)},
		{name: "ID", run: plain((*session).id)},

		{name: "LOGIN", state: beforeLogin, run: plain((*session).login)},
		{name: "AUTHENTICATE", state: beforeLogin, run: plain((*session).authenticate)},

		{name: "XRESUME", state: afterLogin, quiet: true, run: plain((*session).resume)},
		{name: "ENABLE", state: afterLogin, run: plain((*session).enable)},
		{name: "NAMESPACE", state: afterLogin, run: plain((*session).namespace)},
		{name: "SELECT", state: afterLogin, run: plain((*session).selectMailbox)},
		{name: "EXAMINE", state: afterLogin, run: plain((*session).examine)},
		{name: "CREATE", state: afterLogin, run: plain((*session).create)},
		{name: "DELETE", state: afterLogin, run: plain((*session).deleteMailbox)},
		{name: "RENAME", state: afterLogin, run: plain((*session).rename)},
		{name: "SUBSCRIBE", state: afterLogin, run: plain((*session).subscribe)},
		{name: "UNSUBSCRIBE", state: afterLogin, run: plain((*session).unsubscribe)},
		{name: "LIST", state: afterLogin, run: plain((*session).list)},
		{name: "LSUB", state: afterLogin, run: plain((*session).lsub)},
		{name: "STATUS", state: afterLogin, run: plain((*session).status)},
		{name: "APPEND", state: afterLogin, framed: true, run: (*session).appendMessages},
		{name: "SETACL", state: afterLogin, run: plain((*session).setACL)},
		{name: "DELETEACL", state: afterLogin, run: plain((*session).deleteACL)},
		{name: "GETACL", state: afterLogin, run: plain((*session).getACL)},
		{name: "LISTRIGHTS", state: afterLogin, run: plain((*session).listRights)},
		{name: "MYRIGHTS", state: afterLogin, run: plain((*session).myRights)},
		{name: "GETQUOTA", state: afterLogin, run: plain((*session).getQuota)},
		{name: "GETQUOTAROOT", state: afterLogin, run: plain((*session).getQuotaRoot)},
		{name: "SETQUOTA", state: afterLogin, run: plain((*session).setQuota)},
		{name: "IDLE", state: afterLogin, run: plain((*session).idle)},

		{name: "CHECK", state: withMailbox, always: true, run: plain((*session).noop)},
		{name: "CLOSE", state: withMailbox, run: plain((*session).closeMailbox)},
		{name: "UNSELECT", state: withMailbox, run: plain((*session).unselect)},
		{name: "EXPUNGE", state: withMailbox, uid: true, always: true, run: plain((*session).expunge)},
		{name: "FETCH", state: withMailbox, uid: true, fixed: true, run: plain((*session).fetch)},
		{name: "STORE", state: withMailbox, uid: true, fixed: true, always: true, run: plain((*session).store)},
		{name: "SEARCH", state: withMailbox, uid: true, fixed: true, run: plain((*session).search)},
		{name: "COPY", state: withMailbox, uid: true, run: plain((*session).copy)},
		{name: "MOVE", state: withMailbox, uid: true, always: true, run: plain((*session).move)},
	}
	commands = make(map[string]*command, len(list))
	for i := range list {
		commands[list[i].name] = &list[i]
	}
}

// lookup finds a command by its name in any case.
func lookup(verb []byte) *command {
	var room [16]byte
	if len(verb) > len(room) {
		return nil
	}
	for i, c := range verb {
		if 'a' <= c && c <= 'z' {
			c -= 'a' - 'A'
		}
		room[i] = c
	}
	return commands[string(room[:len(verb)])]
}

// allowed refuses a command that the state of the session does not allow.
func (s *session) allowed() error {
	switch {
	case s.cmd.state == beforeLogin && s.account != nil:
		return bad("Already logged in")
	case s.cmd.state >= afterLogin && s.account == nil:
		return bad("Log in first")
	case s.cmd.state == withMailbox && s.view == nil:
		return bad("Select a mailbox first")
	}
	return nil
}
