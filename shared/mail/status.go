package mail

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Status is an enhanced status code, RFC 3463: class, subject, detail. The
// zero Status means "not given".
type Status [3]int

// The codes used in more than one room. Names follow the registry of RFC 5248.
var (
	StatusOK               = Status{2, 0, 0}
	StatusDelivered        = Status{2, 1, 5} // destination address valid
	StatusBadMailbox       = Status{5, 1, 1}
	StatusBadDomain        = Status{5, 1, 2}
	StatusBadSyntax        = Status{5, 1, 3}
	StatusAmbiguous        = Status{5, 1, 4}
	StatusBadSenderSyntax  = Status{5, 1, 7}
	StatusDisabled         = Status{5, 2, 1}
	StatusOverQuota        = Status{4, 2, 2}
	StatusTooBig           = Status{5, 3, 4}
	StatusNotServing       = Status{4, 3, 0}
	StatusSystemFull       = Status{4, 3, 1}
	StatusShuttingDown     = Status{4, 3, 2}
	StatusNoAnswer         = Status{4, 4, 1}
	StatusBadConnection    = Status{4, 4, 2}
	StatusDirectoryFailure = Status{4, 4, 3}
	StatusNoQuorum         = Status{4, 4, 5}
	StatusLoop             = Status{5, 4, 6}
	StatusExpired          = Status{4, 4, 7}
	StatusUnknownBody      = Status{4, 6, 0} // between the tiers: a message was named that is not there
	StatusInvalidCommand   = Status{5, 5, 1}
	StatusSyntax           = Status{5, 5, 2}
	StatusTooManyRcpt      = Status{4, 5, 3}
	StatusBadParameter     = Status{5, 5, 4}
	StatusBadContent       = Status{5, 6, 0}
	StatusRefused          = Status{5, 7, 1}
)

// String prints the code as in a reply, "5.1.1"; "" for the zero Status.
func (s Status) String() string {
	if s == (Status{}) {
		return ""
	}
	return strconv.Itoa(s[0]) + "." + strconv.Itoa(s[1]) + "." + strconv.Itoa(s[2])
}

// ParseStatus reads "5.1.1". It reports false for anything that RFC 3463
// section 2 does not allow.
func ParseStatus(text string) (Status, bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return Status{}, false
	}
	var s Status
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || len(p) > 3 || p[0] == '+' || p[0] == '-' {
			return Status{}, false
		}
		s[i] = n
	}
	if s[0] != 2 && s[0] != 4 && s[0] != 5 {
		return Status{}, false
	}
	return s, true
}

// Error is the failure of one step, for one recipient or, if Rcpt is zero, for
// the whole transaction. Class 4 is tried again, class 5 returned to the sender.
type Error struct {
	Op     string  // step that failed, "expand.Rcpt"
	Rcpt   Address // recipient concerned
	Code   int     // SMTP reply code; 0: 451 for class 4, 550 for class 5
	Status Status  // RFC 3463: {4, 4, 1}, {5, 1, 1} ...
	Reply  string  // text for the peer: no host, path, or policy detail
	Err    error   // cause, for the log; Unwrap returns it
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if !e.Rcpt.IsNull() {
		b.WriteString(" <" + e.Rcpt.String() + ">")
	}
	fmt.Fprintf(&b, ": %d %s %s", e.ReplyCode(), e.Status, e.Reply)
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// ReplyCode is the SMTP reply code for e: Code, or the usual one of its class.
func (e *Error) ReplyCode() int {
	switch {
	case e.Code != 0:
		return e.Code
	case e.Status[0] == 5:
		return 550
	}
	return 451
}

// Permanent reports whether err means that trying again cannot help. An error
// that nobody classified is temporary: a fault of ours must never bounce mail.
func Permanent(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status[0] == 5
}

// AsError returns the *Error in err's chain, or wraps err as a temporary
// failure of op (RFC 3463 4.3.0) when there is none.
func AsError(op string, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Op: op, Code: 451, Status: Status{4, 3, 0}, Reply: "Temporary failure, try again later", Err: err}
}
