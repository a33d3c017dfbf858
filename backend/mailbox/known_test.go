package mailbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

// stored delivers d to one more account and returns the id of the message there.
func stored(t *testing.T, s *mailbox.Service, d mailbox.Delivery, who string, want []byte) uint64 {
	t.Helper()
	d.Recipients = []mailbox.DeliveryRecipient{{Account: who}}
	res, err := s.Deliver(context.Background(), &d)
	if err != nil || res[0].Err != nil {
		t.Fatal(res, err)
	}
	v := open(t, account(t, s, who), "INBOX")
	if !bytes.Equal(bodyOf(t, v, v.Len()), want) {
		t.Errorf("%s: the message came back changed", who)
	}
	var id uint64
	err = v.Rows(context.Background(), []int{v.Len()}, func(_ int, row *mailbox.Row) error { id = row.MessageID; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestKnown: a message that was named is stored once, whether it is named or
// sent again, and also when all who had it have expunged it meanwhile.
func TestKnown(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s, _ := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Now = func() time.Time { return now } })
	for name, msg := range map[string][]byte{
		"small": []byte(text), "in parts": []byte("Subject: large\r\n\r\n" + strings.Repeat("0123456789abcdef0123456789abcde\r\n", 40_000)),
	} {
		t.Run(name, func(t *testing.T) {
			of := func(n int) string { return fmt.Sprintf("%s%d@example.test", strings.ReplaceAll(name, " ", ""), n) }
			d := mailbox.Delivery{TraceID: name, Trace: []byte("Return-Path: <a@x.test>\r\n"), Message: msg, Named: true}
			want := append(bytes.Clone(d.Trace), msg...)
			sum := mailbox.BodyName(sha256.Sum256(msg))
			if s.Known(&d, sum) != nil {
				t.Fatal("known before it was stored")
			}
			first := stored(t, s, d, of(1), want)
			same := d
			same.Message = nil
			if same.Same = s.Known(&d, sum); same.Same == nil || same.Same.Size() != int64(len(want)) {
				t.Fatalf("not known: %+v", same.Same)
			}
			if id := stored(t, s, same, of(2), want); id != first {
				t.Error("stored again when it was named")
			}
			if id := stored(t, s, d, of(3), want); id != first {
				t.Error("stored again when it was sent again")
			}
			for i := 1; i <= 3; i++ {
				v := open(t, account(t, s, of(i)), "INBOX")
				if gone, err := v.Expunge(context.Background(), []uint32{v.UID(1)}, true); err != nil || len(gone) != 1 {
					t.Fatal(gone, err)
				}
			}
			if id := stored(t, s, same, of(4), want); id != first {
				t.Error("stored again after it was expunged")
			}

			other := d
			other.TraceID = "another"
			if s.Known(&other, sum) != nil {
				t.Error("known on another occasion")
			}
			other = d
			other.Trace = []byte("Return-Path: <b@x.test>\r\n")
			if s.Known(&other, sum) != nil {
				t.Error("known of another sender")
			}
			now = now.Add(15 * time.Minute)
			if s.Known(&d, sum) != nil {
				t.Error("known for too long")
			}
			if id := stored(t, s, d, of(5), want); id == first {
				t.Error("octets that are too old were used")
			}
		})
	}
}

// TestKnownIsBounded: the oldest are forgotten.
func TestKnownIsBounded(t *testing.T) {
	s := mailboxtest.New(t)
	d := mailbox.Delivery{Message: []byte(text), Named: true}
	name := mailbox.BodyName(sha256.Sum256(d.Message))
	known := func(n int) bool {
		d.TraceID = fmt.Sprint(n)
		return s.Known(&d, name) != nil
	}
	for i := range 300 {
		d.TraceID = fmt.Sprint(i)
		stored(t, s, d, "ann@example.test", d.Message)
	}
	if known(0) || !known(299) {
		t.Errorf("the first is known: %v, the last: %v", known(0), known(299))
	}
}
