package transaction

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

// primaries knows that alt@p1 is ann@p1.
func primaries(_ context.Context, a mail.Address) (mail.Address, error) {
	switch a.Key() {
	case "alt@p1":
		return mail.Address{Local: "ann", Domain: "p1"}, nil
	case "down@p1":
		return mail.Address{Local: "wrong", Domain: "p1"}, errors.New("directory away")
	}
	return a, nil
}

func TestReverse(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Reverse = primaries })
	submit := client
	submit.Submitted = true
	env := mail.Envelope{ReversePath: mail.Address{Local: "alt", Domain: "p1"}}
	for name, tt := range map[string]struct{ in, want string }{
		"fields": {
			"From: Alt <Alt@p1>\r\nSender: alt@p1\r\nReply-To: x.alt@p1,\r\n alt@p1.example, alt@p1\r\nTo: alt@p1\r\n\r\nalt@p1\r\n",
			"From: Alt <ann@p1>\r\nSender: ann@p1\r\nReply-To: x.alt@p1,\r\n alt@p1.example, ann@p1\r\nTo: alt@p1\r\n\r\nalt@p1\r\n",
		},
		"others":         {"From: eve@p2, down@p1\r\n\r\nx", "From: eve@p2, down@p1\r\n\r\nx"},
		"no header":      {"\r\nbody\r\n", "\r\nbody\r\n"},
		"no body":        {"From: alt@p1\r\n", "From: ann@p1\r\n"},
		"lines that are": {"no field\r\nFrom: alt@p1\r\n\r\nx", "no field\r\nFrom: ann@p1\r\n\r\nx"},
	} {
		if r := h.send(t, submit, env, tt.in, "temp@p1"); r.Code != 250 {
			t.Fatalf("%s: %v", name, r)
		}
		it, body := h.q.items[len(h.q.items)-1], h.q.bodies[len(h.q.bodies)-1]
		if !strings.HasPrefix(body, "Received: ") || !strings.HasSuffix(body, "\r\n"+tt.want) || it.Envelope.ReversePath.Local != "ann" {
			t.Errorf("%s: from %s\n%s", name, it.Envelope.ReversePath, body)
		}
		// What others send is theirs.
		if h.send(t, client, env, tt.in, "temp@p1"); !strings.HasSuffix(h.q.bodies[len(h.q.bodies)-1], "\r\n"+tt.in) || h.q.items[len(h.q.items)-1].Envelope.ReversePath.Local != "alt" {
			t.Errorf("%s by a stranger:\n%s", name, h.q.bodies[len(h.q.bodies)-1])
		}
	}
}

// FuzzReversed looks for a message that panics or whose body changes.
func FuzzReversed(f *testing.F) {
	f.Add([]byte("From: Alt <alt@p1>\r\n\r\nalt@p1"))
	f.Add([]byte("Reply-To: (alt@p1) alt@p1,\r\n \"alt@p1\" <alt@p1>\r\nFrom:alt@p1"))
	tx := &Transaction{cfg: &Config{Reverse: primaries, Log: slog.New(slog.DiscardHandler)}, src: Source{Submitted: true}}
	f.Fuzz(func(t *testing.T, msg []byte) {
		header, rest := tx.reversed(context.Background(), msg)
		if rest != nil && !strings.HasSuffix(string(msg), string(rest)) || rest == nil && string(header) != string(msg) && len(msg) > 0 && !strings.Contains(string(msg), "alt@p1") {
			t.Errorf("%q: %q, %q", msg, header, rest)
		}
	})
}
