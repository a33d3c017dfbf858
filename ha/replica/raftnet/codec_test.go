package raftnet

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

var header = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a"), Addr: []byte("10.0.0.1:1")}

// messages are one of each kind that encode knows, by kind.
var messages = map[uint8]any{
	kindVote:                &raft.RequestVoteRequest{RPCHeader: header, Term: 1 << 40, LastLogIndex: 2, LastLogTerm: 3, LeadershipTransfer: true},
	kindPreVote:             &raft.RequestPreVoteRequest{RPCHeader: header, Term: 1, LastLogIndex: 2, LastLogTerm: 3},
	kindTimeout:             &raft.TimeoutNowRequest{RPCHeader: header},
	kindSnapshot:            &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: 2, LastLogIndex: 3, LastLogTerm: 4, Configuration: []byte("c"), ConfigurationIndex: 5, Size: 6},
	kindAppend | replyBit:   &raft.AppendEntriesResponse{RPCHeader: header, Term: 1, LastLog: 2, Success: true, NoRetryBackoff: true},
	kindVote | replyBit:     &raft.RequestVoteResponse{RPCHeader: header, Term: 1, Granted: true},
	kindPreVote | replyBit:  &raft.RequestPreVoteResponse{RPCHeader: header, Term: 1, Granted: true},
	kindSnapshot | replyBit: &raft.InstallSnapshotResponse{RPCHeader: header, Term: 1, Success: true},
	kindTimeout | replyBit:  &raft.TimeoutNowResponse{RPCHeader: header},
}

func encoded(t testing.TB, v any) []byte {
	var w writer
	if err := w.encode(v); err != nil {
		t.Fatal(err)
	}
	return w.b
}

func TestMessages(t *testing.T) {
	for kind, want := range messages {
		b := encoded(t, want)
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
		if err := decode(b, got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("kind %x: %+v, %v, want %+v", kind, got, err, want)
		}
		for n := range b { // cut short anywhere
			if decode(b[:n], reflect.New(reflect.TypeOf(want).Elem()).Interface()) == nil {
				t.Errorf("kind %x: %d of %d bytes are taken for a message", kind, n, len(b))
			}
		}
		if decode(append(b, 0), reflect.New(reflect.TypeOf(want).Elem()).Interface()) == nil {
			t.Errorf("kind %x: a byte too many is not noticed", kind)
		}
	}
	if new(writer).encode(1) == nil || decode(nil, new(int)) == nil {
		t.Error("unknown types are taken")
	}
}

// request has entries of every kind of content.
func request() *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: header, Term: 7, PrevLogEntry: 8, PrevLogTerm: 6, LeaderCommitIndex: 5,
		Entries: []*raft.Log{
			{Index: 9, Term: 7, Type: raft.LogNoop, AppendedAt: time.Unix(0, 1_700_000_000_000_000_001)},
			{Index: 10, Term: 7, Type: raft.LogCommand, Data: bytes.Repeat([]byte("d"), 3000), Extensions: []byte("F1234567")},
			{Index: 11, Term: 7, Type: raft.LogCommand, Extensions: []byte("x")},
			{Index: 12, Term: 7, Type: raft.LogConfiguration, Data: []byte("c")},
		},
	}
}

func encodedAppend(q *raft.AppendEntriesRequest) []byte {
	var w writer
	w.append(q)
	fixed := len(w.b)
	for _, e := range q.Entries {
		w.entry(e)
		w.b = append(append(w.b, e.Extensions...), e.Data...)
	}
	if len(w.b)-fixed != appendSize(q) {
		panic("appendSize does not say what is written")
	}
	return w.b
}

func TestAppend(t *testing.T) {
	want := request()
	b := encodedAppend(want)
	got, err := decodeAppend(b)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for n := range b {
		if q, err := decodeAppend(b[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for a request of %d entries", n, len(b), len(q.Entries))
		}
	}
	if _, err := decodeAppend(append(b, 0)); err == nil {
		t.Error("a byte too many is not noticed")
	}
}

func TestStatus(t *testing.T) {
	want := Status{ID: "a", Term: 1, LeaderID: "b", State: 2, First: 3, Last: 4, Commit: 5, Applied: 6, Serving: true, Contact: 7 * time.Millisecond, StoreTime: 8, LogBytes: 9, LogLimit: 10, Draining: true, Floor: 11, SlowLeft: 12}
	var w writer
	w.status(&want)
	for _, more := range [][]byte{nil, []byte("fields of a newer version")} {
		if got, err := decodeStatus(append(w.b, more...)); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	older := want
	older.SlowLeft = 0
	if got, err := decodeStatus(w.b[:len(w.b)-8]); err != nil || got != older {
		t.Errorf("of an older member: %+v, %v, want %+v", got, err, older)
	}
	older.Floor = 0
	if got, err := decodeStatus(w.b[:len(w.b)-16]); err != nil || got != older {
		t.Errorf("of one older still: %+v, %v, want %+v", got, err, older)
	}
	older.Draining = false
	if got, err := decodeStatus(w.b[:len(w.b)-17]); err != nil || got != older {
		t.Errorf("of one older than that: %+v, %v, want %+v", got, err, older)
	}
	for _, n := range []int{1, 9, 18} {
		if _, err := decodeStatus(w.b[:len(w.b)-n]); err == nil {
			t.Errorf("cut short by %d, and not noticed", n)
		}
	}
}

// FuzzRequest decodes what a member could send on a connection for raft. What
// is accepted encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	for kind, v := range messages {
		b := encoded(f, v)
		if kind == kindSnapshot {
			b = append(b, "sixsix"...)
		}
		f.Add(kind, b)
	}
	f.Add(uint8(kindAppend), encodedAppend(request()))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		rpc, err := decodeRPC(kind, b)
		if err != nil {
			return
		}
		again := []byte(nil)
		switch q := rpc.Command.(type) {
		case *raft.AppendEntriesRequest:
			again = encodedAppend(q)
		case *raft.InstallSnapshotRequest:
			rest := make([]byte, q.Size)
			if n, _ := rpc.Reader.Read(rest); int64(n) != q.Size {
				t.Fatalf("%d bytes of snapshot, %d announced", n, q.Size)
			}
			again = append(encoded(t, q), rest...)
		default:
			again = encoded(t, q)
		}
		if len(again) != len(b) {
			t.Errorf("%d bytes, encoded again %d", len(b), len(again))
		}
	})
}

// FuzzOthers decodes what comes before a connection is trusted, and answers.
func FuzzOthers(f *testing.F) {
	var w writer
	w.u8(preambleVersion)
	w.string("pair1")
	w.string("a")
	w.string("b")
	f.Add(uint8(forRaft), w.b)
	f.Add(uint8(kindStatus), new(writer).b)
	for kind, v := range messages {
		f.Add(kind, encoded(f, v))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		if p, err := parsePreamble(kind, b); err == nil && len(p.pair)+len(p.from)+len(p.to)+7 != len(b) {
			t.Errorf("preamble %+v of %d bytes", p, len(b))
		}
		_, _ = decodeStatus(b) // must not panic
		for _, v := range messages {
			_ = decode(b, reflect.New(reflect.TypeOf(v).Elem()).Interface())
		}
	})
}
