package main

import (
	"context"
	"encoding/json"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/cmd/internal/reconstruct"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
)

// restoreWhole puts a snapshot where a replica is to be.
func restoreWhole(ctx context.Context, snap, dir string) error {
	_, err := snapshot.Unpack(ctx, snap, dir)
	return err
}

// TestRestorePair makes the first replica of a pair out of a snapshot and has it
// serve, by raft.
func TestRestorePair(t *testing.T) {
	n := filled(t, 25)
	n.upkeep.keeper.Raft = func() (json.RawMessage, error) { return json.Marshal(voter.Base{Term: 1}) }
	out := t.TempDir()
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "s", CopyTo: out})
	snap := filepath.Join(out, "s")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	n.check(err)
	dir := filepath.Join(t.TempDir(), "pair1")
	w, err := reconstruct.Pair(t.Context(), snap, dir, "pair1", "a", l.Addr().String())
	n.check(err)
	if _, err := reconstruct.Pair(t.Context(), snap, dir, "pair1", "a", l.Addr().String()); err == nil {
		t.Error("a directory that is not empty was used")
	}
	log := new(pairLog)
	rows, err := store.Open(filepath.Join(dir, "meta"), log, store.Options{})
	n.check(err)
	defer rows.Close()
	hub := new(notify.Hub)
	machine, err := fsm.New(fsm.Config{Store: rows, Hub: hub, Fatal: func(err error) { t.Error(err) }})
	n.check(err)
	defer machine.Close()
	server, client := replicatest.NewCA(t).Issue(t, "a")
	r, err := replica.New(replica.Config{FSM: &applier{FSM: machine}, Config: voter.Config{
		Dir: dir, Pair: "pair1", ID: w.ID, Peers: []voter.Peer{{ID: w.ID, Name: "a", Addr: l.Addr().String()}},
		Listener: l, ServerTLS: server, ClientTLS: client, Authorize: replicatest.Authorize("pair1"), OnFatal: func(err error) { t.Error(err) },
	}})
	n.check(err)
	log.open(r, rows)
	ran := make(chan error, 1)
	go func() { ran <- r.Run(context.Background()) }()
	defer func() {
		n.check(r.Shutdown(context.Background()))
		n.check(<-ran)
	}()
	for until := time.Now().Add(20 * time.Second); !r.Serving(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the restored replica does not serve")
		}
	}
	boxes, err := mailbox.New(mailbox.Config{Log: log, Store: rows, Hub: hub})
	n.check(err)
	res, err := boxes.Deliver(t.Context(), &mailbox.Delivery{Message: text(99, 100), Recipients: []mailbox.DeliveryRecipient{{Account: eva}}})
	if err != nil || res[0].Err != nil || res[0].UID != 26 {
		t.Fatalf("%+v, %v", res, err)
	}
	a, err := boxes.Account(t.Context(), eva)
	n.check(err)
	v, err := a.Open(t.Context(), "INBOX", true)
	n.check(err)
	defer v.Close()
	if v.Len() != 26 {
		t.Errorf("%d messages", v.Len())
	}
}
