package mail

import "time"

// AutoreplyMode is how a person's mail is answered while away.
type AutoreplyMode string

// The modes of mailAutoReplyMode (directory.md 10).
const (
	AutoreplyReply  AutoreplyMode = "reply"  // one part with the text
	AutoreplyEcho   AutoreplyMode = "echo"   // a disposition notification with the text and the original, for every message
	AutoreplyHeader AutoreplyMode = "header" // a disposition notification with the original's header only
)

// Autoreply is what a recipient's directory entry says about answering mail. It
// travels with the recipient, so that nobody asks the directory again.
type Autoreply struct {
	Mode    AutoreplyMode
	Only    bool // the mail is answered and not stored
	From    Address
	Me      []Address // addresses by which the person may be named in To and Cc
	Subject string    // "" is made from the original's
	Text    string    // the answer to this message's sender, lines ended by LF
	// Timeout is the least time between two replies to one sender; 0 answers
	// every message.
	Timeout time.Duration
}
