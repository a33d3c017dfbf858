package transaction

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

// TestGuaranteed: only who has logged in can submit guaranteed mail, whatever
// the envelope says; the directory is asked once, and its failure is no answer.
func TestGuaranteed(t *testing.T) {
	asked, fails := 0, 0
	h := newHouse(t, func(c *Config) {
		c.Guaranteed = func(_ context.Context, user string) (bool, error) {
			if asked++; fails > 0 {
				fails--
				return false, errors.New("no directory")
			}
			return user == "phone", nil
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
