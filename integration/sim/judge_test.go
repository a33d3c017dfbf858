package sim

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/store"
)

// judge looks at what the run has left, with everything running again.
func (w *world) judge() {
	w.eventually("the relays have delivered everything", time.Hour, func() bool {
		return !slices.ContainsFunc(w.relays, func(r *relay) bool { return !r.empty() })
	})
	if !w.sameState() {
		return
	}
	w.verify()
	first := w.serving()
	w.ledger()
	// The other replica has the same, also for those who ask it.
	w.nodes[first].use(func(p *proc) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.replica.Transfer(ctx, ""); err != nil {
			w.problem("%s does not hand over when all is well: %v", first, err)
		}
	})
	w.eventually("the other replica serves", time.Minute, func() bool { return w.serving() != "" && w.serving() != first })
	w.ledger()
}

// sameState waits until both replicas have applied the same, and compares.
func (w *world) sameState() bool {
	type at struct {
		index uint64
		sum   store.Sum
	}
	var seen [2]at
	alike := func() bool {
		for i, name := range []string{"a", "b"} {
			if !w.nodes[name].use(func(p *proc) { seen[i].index, seen[i].sum = p.machine.Digest() }) {
				return false
			}
		}
		return w.serving() != "" && seen[0].index == seen[1].index
	}
	if !w.eventually("a replica serves and both have applied the same", time.Minute, alike) {
		return false
	}
	if seen[0].sum != seen[1].sum {
		w.problem("at entry %d the replicas have the digests %v and %v", seen[0].index, seen[0].sum, seen[1].sum)
		return false
	}
	return true
}

// verify reads the rows of both replicas.
func (w *world) verify() {
	time.Sleep(time.Second) // nothing is on its way any more
	for _, name := range []string{"a", "b"} {
		w.nodes[name].use(func(p *proc) {
			_, want := p.machine.Digest()
			sum, err := p.rows.Verify()
			if err != nil || sum != want {
				w.problem("%s: rows have the digest %v, the state says %v: %v", name, sum, want, err)
			}
		})
	}
}

// ledger compares what the clients of the relays were told with what is there,
// and reads every body.
func (w *world) ledger() {
	name := w.serving()
	if name == "" {
		w.problem("no replica serves at the end")
		return
	}
	found := map[string]map[string]int{} // by subject and mailbox
	w.nodes[name].use(func(p *proc) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		accounts, err := p.boxes.Accounts(ctx, "", 1000)
		if err != nil {
			w.problem("%s: accounts are not listed: %v", name, err)
		}
		for _, account := range accounts {
			if err := readAll(ctx, p.boxes, account, found); err != nil {
				w.problem("%s: %s cannot be read: %v", name, account, err)
			}
		}
	})
	w.mu.Lock()
	letters := maps.Clone(w.letters)
	w.mu.Unlock()
	for what, l := range letters {
		for _, to := range l.to {
			switch n := found[what][to]; {
			case n == 0 && l.acked:
				w.problem("%s: %s was acknowledged and is not in %s", name, what, to)
			case n > 1:
				w.problem("%s: %s is %d times in %s", name, what, n, to)
			}
		}
	}
}

// readAll reads every message of an account and counts it by its subject.
func readAll(ctx context.Context, boxes *mailbox.Service, account string, found map[string]map[string]int) error {
	a, err := boxes.Account(ctx, account)
	if err != nil {
		return err
	}
	v, err := a.Open(ctx, "INBOX", true)
	if err != nil {
		return err
	}
	defer v.Close()
	seqs := make([]int, v.Len())
	for i := range seqs {
		seqs[i] = i + 1
	}
	return v.Rows(ctx, seqs, func(_ int, r *mailbox.Row) error {
		c, err := v.Message(ctx, r)
		if err != nil {
			return fmt.Errorf("UID %d: %w", r.UID, err)
		}
		defer c.Close()
		b, err := c.Bytes(ctx, 0, c.Size())
		if err != nil {
			return fmt.Errorf("UID %d: %w", r.UID, err)
		}
		_, rest, _ := bytes.Cut(b, []byte("Subject: "))
		subject, body, ok := bytes.Cut(rest, []byte("\r\n\r\n"))
		if !ok || !bytes.HasSuffix(body, []byte("x\r\n")) && len(body) > 2 {
			return fmt.Errorf("UID %d is not what was sent: %.200q", r.UID, b)
		}
		if found[string(subject)] == nil {
			found[string(subject)] = map[string]int{}
		}
		found[string(subject)][account]++
		return nil
	})
}
