package transaction

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/shared/mail"
)

// TestGuaranteed: only who has logged in can submit guaranteed mail, whatever
// the envelope says; the directory is asked once, and its failure is no answer.
func TestGuaranteed(t *testing.T) {
	asked, fails := 0, 0
	h := newHouse(t, func(c *Config) {
		c.Submission = func(_ context.Context, user string) (expand.Submission, error) {
			if asked++; fails > 0 {
				fails--
				return expand.Submission{}, errors.New("no directory")
			}
			return expand.Submission{Guaranteed: user == "phone"}, nil
		}
	})
	from := func(user string, given bool) bool {
		t.Helper()
		src := client
		src.AuthUser = user
		env := ann
		env.Guaranteed = given
		n := len(h.q.items)
		h.send(t, src, env, text, "x@elsewhere.example", "y@elsewhere.example")
		if len(h.q.items) != n+1 {
			t.Fatal("not queued")
		}
		return h.q.items[n].Envelope.Guaranteed
	}
	if !from("phone", false) || asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if from("ann", true) || from("", true) || asked != 2 {
		t.Errorf("guaranteed without right, or asked %d times", asked)
	}
	fails = 1
	src := client
	src.AuthUser = "phone"
	tx, err := h.Begin(t.Context(), ann, src)
	if err != nil {
		t.Fatal(err)
	}
	r := mail.Recipient{Address: mail.Address{Local: "x", Domain: "elsewhere.example"}}
	if err := tx.Rcpt(t.Context(), r); err == nil || mail.Permanent(err) {
		t.Errorf("without a directory: %v", err)
	}
	if err := tx.Rcpt(t.Context(), r); err != nil {
		t.Error(err)
	}
	if tx.Data(t.Context(), Content{Bytes: []byte(text)}); !h.q.items[len(h.q.items)-1].Envelope.Guaranteed {
		t.Error("not guaranteed after the directory is back")
	}
}

// TestSubmissionLimits: a user's limits hold for each message that the user
// submits, however long it says it is, and for nobody else's.
func TestSubmissionLimits(t *testing.T) {
	size := int64(len(text))
	h := newHouse(t, func(c *Config) {
		c.Submission = func(_ context.Context, user string) (expand.Submission, error) {
			if user == "small" {
				return expand.Submission{Recipients: 2, Size: size - 1}, nil
			}
			return expand.Submission{Recipients: 2, Size: size}, nil
		}
	})
	for name, tt := range map[string]struct {
		user       string
		announced  int64
		recipients int
		rcpt, data int // of the last one
	}{
		"two":                    {"exact", 0, 2, 250, 250},
		"three":                  {"exact", 0, 3, 452, 250},
		"announced too big":      {"small", size, 1, 552, 0},
		"too big":                {"small", 0, 1, 250, 552},
		"announced and just fit": {"exact", size, 1, 250, 250},
		"nobody":                 {"", 0, 5, 250, 250},
	} {
		src, env := client, ann
		src.AuthUser, env.Size = tt.user, tt.announced
		tx, err := h.Begin(t.Context(), env, src)
		if err != nil {
			t.Fatal(err)
		}
		code := 0
		for i := range tt.recipients {
			code = 250
			err := tx.Rcpt(t.Context(), mail.Recipient{Address: mail.Address{Local: string(rune('a' + i)), Domain: "elsewhere.example"}})
			if err != nil {
				code = mail.AsError("", err).ReplyCode()
			}
		}
		if code != tt.rcpt {
			t.Errorf("%s: RCPT %d, want %d", name, code, tt.rcpt)
		}
		if tt.data == 0 {
			continue
		}
		if r := tx.Data(t.Context(), Content{Bytes: []byte(text)}); r.Code != tt.data {
			t.Errorf("%s: DATA %v, want %d", name, r, tt.data)
		}
	}
}
