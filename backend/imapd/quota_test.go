package imapd

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/mail"
)

// TestQuotaAnswers: what is used and allowed, as the directory says it with each
// delivery, and as clients are told (RFC 9208).
func TestQuotaAnswers(t *testing.T) {
	f := start(t, nil)
	c := f.withMessages()
	size, stamp := int64(0), 0
	for _, m := range threeMessages {
		size += int64(len(m.text))
	}
	const text = "Subject: counted\r\n\r\nbody\r\n"
	deliver := func(bytes, messages int64) {
		t.Helper()
		stamp++
		res, err := f.boxes.Deliver(context.Background(), &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{
			Account: "eva@example.test", Force: true, Quota: &mail.Quota{Bytes: bytes, Messages: messages, Stamp: fmt.Sprintf("2026010%d", stamp)},
		}}})
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
		size += int64(len(text))
	}
	blocks := func() int64 { return (size + 1023) / 1024 }
	for _, tt := range []struct {
		bytes, messages int64
		want            func() string
	}{
		{50 << 20, -1, func() string { return fmt.Sprintf(`* QUOTA "" (STORAGE %d 51200)`, blocks()) }},
		{-1, 100, func() string { return `* QUOTA "" (MESSAGE 5 100)` }},
		{4 << 10, 6, func() string { return fmt.Sprintf(`* QUOTA "" (STORAGE %d 4 MESSAGE 6 6)`, blocks()) }},
		{0, 0, func() string { return fmt.Sprintf(`* QUOTA "" (STORAGE %d 0 MESSAGE 7 0)`, blocks()) }},
	} {
		deliver(tt.bytes, tt.messages)
		if got := c.do(`GETQUOTAROOT INBOX`); !slices.Equal(got, []string{`* QUOTAROOT INBOX ""`, tt.want()}) {
			t.Errorf("root, limits %d and %d: %q, want %q", tt.bytes, tt.messages, got, tt.want())
		}
		if got := c.do(`GETQUOTA ""`); got[0] != tt.want() {
			t.Errorf("limits %d and %d: %q", tt.bytes, tt.messages, got)
		}
	}
	// The size of what is marked as deleted, by STATUS and by LIST.
	c.do("SELECT INBOX")
	c.do(`STORE 1,3 +FLAGS.SILENT (\Deleted)`)
	want := fmt.Sprintf("* STATUS INBOX (DELETED 2 DELETED-STORAGE %d)", len(threeMessages[0].text)+len(threeMessages[2].text))
	if got := c.do("STATUS INBOX (DELETED DELETED-STORAGE)"); got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := c.do(`LIST "" INBOX RETURN (STATUS (DELETED DELETED-STORAGE))`); !slices.Contains(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
