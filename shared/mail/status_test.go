package mail

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestStatus(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Status
		ok   bool
	}{
		{"5.1.1", Status{5, 1, 1}, true},
		{"2.0.0", Status{2, 0, 0}, true},
		{"4.999.999", Status{4, 999, 999}, true},
		{"", Status{}, false},
		{"5.1", Status{}, false},
		{"5.1.1.1", Status{}, false},
		{"3.1.1", Status{}, false},
		{"6.1.1", Status{}, false},
		{"5.1000.1", Status{}, false},
		{"5.-1.1", Status{}, false},
		{"5.+1.1", Status{}, false},
		{"5..1", Status{}, false},
		{"5.1.1 ", Status{}, false},
		{"a.b.c", Status{}, false},
	} {
		got, ok := ParseStatus(tt.in)
		if got != tt.want || ok != tt.ok {
			t.Errorf("ParseStatus(%q) = %v, %v", tt.in, got, ok)
		}
		if ok && got.String() != tt.in {
			t.Errorf("%q prints as %q", tt.in, got)
		}
	}
	if s := (Status{}).String(); s != "" {
		t.Errorf("zero status prints as %q", s)
	}
}

func TestPermanent(t *testing.T) {
	noUser := &Error{Op: "expand.Rcpt", Status: StatusBadMailbox, Err: errors.New("no entry")}
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"class 5":               {noUser, true},
		"user unknown, wrapped": {fmt.Errorf("transaction 7f3a: %w", noUser), true},
		"joined":                {errors.Join(io.EOF, noUser), true},
		"class 4":               {&Error{Status: StatusNoAnswer}, false},
		"no status":             {&Error{Code: 550}, false},
		"unclassified":          {io.ErrUnexpectedEOF, false},
		"nil":                   {nil, false},
	} {
		if got := Permanent(tt.err); got != tt.want {
			t.Errorf("%s: Permanent(%v) = %v, want %v", name, tt.err, got, tt.want)
		}
	}
}

func TestError(t *testing.T) {
	cause := errors.New("no entry")
	e := &Error{Op: "expand.Rcpt", Rcpt: Address{"bob", "example.com"}, Status: StatusBadMailbox, Reply: "No such user", Err: cause}
	if got, want := e.Error(), "expand.Rcpt <bob@example.com>: 550 5.1.1 No such user: no entry"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(e, cause) {
		t.Error("the cause is lost")
	}
	for _, tt := range []struct {
		e    Error
		want int
	}{
		{Error{}, 451},
		{Error{Status: StatusNoAnswer}, 451},
		{Error{Status: StatusBadMailbox}, 550},
		{Error{Code: 552, Status: StatusTooBig}, 552},
	} {
		if got := tt.e.ReplyCode(); got != tt.want {
			t.Errorf("%+v: %d, want %d", tt.e, got, tt.want)
		}
	}
}

// TestAsError: what nobody classified is a temporary failure of ours whose
// cause goes to the log and not to the peer.
func TestAsError(t *testing.T) {
	known := &Error{Op: "x", Status: StatusBadMailbox}
	if got := AsError("op", fmt.Errorf("wrapped: %w", known)); got != known {
		t.Errorf("%+v", got)
	}
	got := AsError("op", io.ErrUnexpectedEOF)
	if Permanent(got) || got.ReplyCode() != 451 || got.Status != StatusNotServing || strings.Contains(got.Reply, "EOF") || !errors.Is(got, io.ErrUnexpectedEOF) {
		t.Errorf("%+v", got)
	}
}
