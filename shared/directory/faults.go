package directory

import (
	"context"
	"errors"
)

// Further temporary failures, so that logs and figures can tell them apart. All
// of them mean that the directory could not say, never that nobody is there.
var (
	// ErrMisconfigured says that the directory, or what we were told of it,
	// cannot be right: a base that is missing, a chain of aliases without an
	// end, a domain without users' base.
	ErrMisconfigured = errors.New("directory: set up wrongly")
	// ErrIncomplete says that a server gave less than everything: a limit of
	// its own, or a referral.
	ErrIncomplete = errors.New("directory: incomplete answer")
	// ErrSlow says that the answer did not come in time.
	ErrSlow = errors.New("directory: no answer in time")
)

// Faults are the kinds of failure that FaultOf returns, and three that are counted
// though a question may have its answer all the same: values that cannot be
// read, a server that goes out of use, and a replica that does not know yet what
// the master knows.
var Faults = []string{
	"unavailable", "slow", "incomplete", "misconfigured", "ambiguous", "too_many", "bad_url", "other",
	"broken_value", "server_down", "replica_lags",
}

// FaultOf names the kind of a failure: one of Faults, or "" for nil, for
// ErrNotFound and ErrBadPassword, which are answers, and for a question that
// its asker gave up.
func FaultOf(err error) string {
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrBadPassword), errors.Is(err, context.Canceled):
		return ""
	case errors.Is(err, ErrAmbiguous):
		return "ambiguous"
	case errors.Is(err, ErrTooMany):
		return "too_many"
	case errors.Is(err, ErrURL):
		return "bad_url"
	case errors.Is(err, ErrMisconfigured):
		return "misconfigured"
	case errors.Is(err, ErrIncomplete):
		return "incomplete"
	case errors.Is(err, ErrSlow), errors.Is(err, context.DeadlineExceeded):
		return "slow"
	case errors.Is(err, ErrUnavailable):
		return "unavailable"
	}
	return "other"
}
