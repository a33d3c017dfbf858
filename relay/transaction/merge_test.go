package transaction

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

// TestMergedWishes: a delivery that several recipients lead to is reported on
// as any of them asked for, also among many.
func TestMergedWishes(t *testing.T) {
	for _, others := range []int{0, 3 * few} {
		h := newHouse(t)
		tx, err := h.Begin(t.Context(), ann, client)
		if err != nil {
			t.Fatal(err)
		}
		add := func(local string, n mail.Notify, original string) {
			r := mail.Recipient{Address: mail.Address{Local: local, Domain: "elsewhere.example"}, Notify: n, OriginalRecipient: original}
			if err := tx.Rcpt(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		add("bob", mail.NotifyNever, "")
		for i := range others {
			add(fmt.Sprint("other", i), mail.NotifyNever, "")
		}
		add("BOB", mail.NotifySuccess, "rfc822;robert@elsewhere.example")
		add("bob", mail.NotifyDelay, "rfc822;third@elsewhere.example")
		if r := tx.Data(t.Context(), Content{Bytes: []byte(text)}); r.Code != 250 {
			t.Fatal(r)
		}
		rcpts := h.q.items[0].Recipients
		if len(rcpts) != others+1 {
			t.Fatalf("%d recipients", len(rcpts))
		}
		for i := range rcpts {
			want, original := mail.NotifyNever, ""
			if i == 0 {
				want, original = mail.NotifySuccess|mail.NotifyDelay, "rfc822;robert@elsewhere.example"
			}
			if r := &rcpts[i]; r.Notify != want || r.OriginalRecipient != original {
				t.Errorf("%s: NOTIFY %q, ORCPT %q", r.Address, r.Notify, r.OriginalRecipient)
			}
		}
	}
}
