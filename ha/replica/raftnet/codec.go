package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// maxMessage bounds a message: 128 entries of 1 MB and then some.
const maxMessage = 160 << 20

// Kinds of message. A reply has the kind of its request with replyBit, or is
// kindError with a text.
const (
	kindAppend    = 1
	kindVote      = 2
	kindPreVote   = 3
	kindSnapshot  = 4
	kindTimeout   = 5
	kindStatus    = 16
	kindSeesDead  = 17
	kindGoodbye   = 32
	replyBit      = 0x80
	kindError     = 0xff
	maxSnapshot   = 64 << 10
	entryHeader   = 8 + 8 + 8 + 4 + 2 + 1
	maxStringSize = 0xffff
)

var errMessage = errors.New("malformed message")

// writer appends values to a buffer.
type writer struct{ b []byte }

func (w *writer) u8(v uint8)   { w.b = append(w.b, v) }
func (w *writer) u16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }

func (w *writer) bool(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

// bytes writes at most 65,535 bytes with their length.
func (w *writer) bytes(v []byte) {
	v = v[:min(len(v), maxStringSize)]
	w.u16(uint16(len(v)))
	w.b = append(w.b, v...)
}

func (w *writer) string(v string) {
	v = v[:min(len(v), maxStringSize)]
	w.u16(uint16(len(v)))
	w.b = append(w.b, v...)
}

// reader takes values from a buffer; after the first that is not there
// everything is zero and err is set.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errMessage
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u8() uint8 {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (r *reader) bool() bool { return r.u8() == 1 }

// bytes returns a copy, nil for none.
func (r *reader) bytes() []byte {
	if v := r.take(int(r.u16())); len(v) > 0 {
		return append([]byte(nil), v...)
	}
	return nil
}

func (r *reader) string() string { return string(r.take(int(r.u16()))) }

// end returns the error of the reading, or one if something is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%w: %d bytes too many", errMessage, len(r.b))
	}
	return r.err
}

func (w *writer) header(h raft.RPCHeader) {
	w.u8(uint8(h.ProtocolVersion))
	w.bytes(h.ID)
	w.bytes(h.Addr)
}

func (r *reader) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(r.u8()), ID: r.bytes(), Addr: r.bytes()}
}

// appendSize returns the size of an encoded AppendEntries request besides its
// fixed part.
func appendSize(q *raft.AppendEntriesRequest) int {
	n := 0
	for _, e := range q.Entries {
		n += entryHeader + len(e.Extensions) + len(e.Data)
	}
	return n
}

// append writes the request without its entries.
func (w *writer) append(q *raft.AppendEntriesRequest) {
	w.header(q.RPCHeader)
	w.u64(q.Term)
	w.u64(q.PrevLogEntry)
	w.u64(q.PrevLogTerm)
	w.u64(q.LeaderCommitIndex)
	w.u32(uint32(len(q.Entries)))
}

// entry writes what precedes an entry's extensions and data.
func (w *writer) entry(e *raft.Log) {
	w.u64(e.Index)
	w.u64(e.Term)
	t := int64(0)
	if !e.AppendedAt.IsZero() {
		t = e.AppendedAt.UnixNano()
	}
	w.u64(uint64(t))
	w.u32(uint32(len(e.Data)))
	w.u16(uint16(len(e.Extensions)))
	w.u8(uint8(e.Type))
}

// decodeAppend keeps slices of b in the entries.
func decodeAppend(b []byte) (*raft.AppendEntriesRequest, error) {
	r := reader{b: b}
	q := &raft.AppendEntriesRequest{
		RPCHeader: r.header(), Term: r.u64(), PrevLogEntry: r.u64(), PrevLogTerm: r.u64(), LeaderCommitIndex: r.u64(),
	}
	n := int(r.u32())
	if r.err == nil && n > len(r.b)/entryHeader {
		return nil, errMessage
	}
	if n == 0 {
		return q, r.end()
	}
	logs := make([]raft.Log, n)
	q.Entries = make([]*raft.Log, n)
	for i := range logs {
		e := &logs[i]
		e.Index, e.Term = r.u64(), r.u64()
		if t := int64(r.u64()); t != 0 {
			e.AppendedAt = time.Unix(0, t)
		}
		data, ext := int(r.u32()), int(r.u16())
		e.Type = raft.LogType(r.u8())
		if ext > 0 {
			e.Extensions = r.take(ext)
		}
		if data > 0 {
			e.Data = r.take(data)
		}
		q.Entries[i] = e
	}
	return q, r.end()
}

// encode writes a request that is not AppendEntries, or a reply.
func (w *writer) encode(v any) error {
	switch v := v.(type) {
	case *raft.RequestVoteRequest:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.u64(v.LastLogIndex)
		w.u64(v.LastLogTerm)
		w.bool(v.LeadershipTransfer)
	case *raft.RequestPreVoteRequest:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.u64(v.LastLogIndex)
		w.u64(v.LastLogTerm)
	case *raft.TimeoutNowRequest:
		w.header(v.RPCHeader)
	case *raft.InstallSnapshotRequest:
		w.header(v.RPCHeader)
		w.u8(uint8(v.SnapshotVersion))
		w.u64(v.Term)
		w.u64(v.LastLogIndex)
		w.u64(v.LastLogTerm)
		w.bytes(v.Configuration)
		w.u64(v.ConfigurationIndex)
		w.u64(uint64(v.Size))
	case *raft.AppendEntriesResponse:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.u64(v.LastLog)
		w.bool(v.Success)
		w.bool(v.NoRetryBackoff)
	case *raft.RequestVoteResponse:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.bool(v.Granted)
	case *raft.RequestPreVoteResponse:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.bool(v.Granted)
	case *raft.InstallSnapshotResponse:
		w.header(v.RPCHeader)
		w.u64(v.Term)
		w.bool(v.Success)
	case *raft.TimeoutNowResponse:
		w.header(v.RPCHeader)
	default:
		return fmt.Errorf("raftnet: no encoding for %T", v)
	}
	return nil
}

// decode fills in a value that encode wrote.
func decode(b []byte, v any) error {
	r := reader{b: b}
	switch v := v.(type) {
	case *raft.RequestVoteRequest:
		v.RPCHeader, v.Term, v.LastLogIndex, v.LastLogTerm = r.header(), r.u64(), r.u64(), r.u64()
		v.LeadershipTransfer = r.bool()
	case *raft.RequestPreVoteRequest:
		v.RPCHeader, v.Term, v.LastLogIndex, v.LastLogTerm = r.header(), r.u64(), r.u64(), r.u64()
	case *raft.TimeoutNowRequest:
		v.RPCHeader = r.header()
	case *raft.InstallSnapshotRequest:
		v.RPCHeader, v.SnapshotVersion = r.header(), raft.SnapshotVersion(r.u8())
		v.Term, v.LastLogIndex, v.LastLogTerm = r.u64(), r.u64(), r.u64()
		v.Configuration, v.ConfigurationIndex, v.Size = r.bytes(), r.u64(), int64(r.u64())
		if v.Size < 0 || v.Size > maxSnapshot {
			return fmt.Errorf("%w: snapshot of %d bytes", errMessage, v.Size)
		}
	case *raft.AppendEntriesResponse:
		v.RPCHeader, v.Term, v.LastLog = r.header(), r.u64(), r.u64()
		v.Success, v.NoRetryBackoff = r.bool(), r.bool()
	case *raft.RequestVoteResponse:
		v.RPCHeader, v.Term, v.Granted = r.header(), r.u64(), r.bool()
	case *raft.RequestPreVoteResponse:
		v.RPCHeader, v.Term, v.Granted = r.header(), r.u64(), r.bool()
	case *raft.InstallSnapshotResponse:
		v.RPCHeader, v.Term, v.Success = r.header(), r.u64(), r.bool()
	case *raft.TimeoutNowResponse:
		v.RPCHeader = r.header()
	default:
		return fmt.Errorf("raftnet: no decoding for %T", v)
	}
	return r.end()
}

// Status is what a member says about itself.
type Status struct {
	ID       string
	Term     uint64
	LeaderID string // "" if it knows none
	State    uint8  // raft.RaftState
	First    uint64 // log
	Last     uint64
	Commit   uint64
	Applied  uint64
	Serving  bool
	// Contact is the time since the leader was last heard of, as of the answer.
	Contact time.Duration

	// What follows is zero in the answers of older members.

	// StoreTime is what storing a batch takes there, on average lately.
	StoreTime time.Duration
	// LogBytes is the room that its log takes, LogLimit the most that it may;
	// 0: it does not say.
	LogBytes, LogLimit uint64
	// Draining: it would rather that another one served.
	Draining bool
	// Floor is the last entry that every data replica of the group is known to
	// have applied.
	Floor uint64
	// SlowLeft is the time since a replica of the group last handed over because
	// its disk was slow, as far as this member knows; 0: never.
	SlowLeft time.Duration
}

func (w *writer) status(s *Status) {
	w.string(s.ID)
	w.u64(s.Term)
	w.string(s.LeaderID)
	w.u8(s.State)
	for _, v := range []uint64{s.First, s.Last, s.Commit, s.Applied, uint64(s.Contact)} {
		w.u64(v)
	}
	w.bool(s.Serving)
	for _, v := range []uint64{uint64(s.StoreTime), s.LogBytes, s.LogLimit} {
		w.u64(v)
	}
	w.bool(s.Draining)
	w.u64(s.Floor)
	w.u64(uint64(s.SlowLeft))
}

// decodeStatus allows more fields after those it knows: a newer member's.
func decodeStatus(b []byte) (s Status, err error) {
	r := reader{b: b}
	s = Status{ID: r.string(), Term: r.u64(), LeaderID: r.string(), State: r.u8()}
	s.First, s.Last, s.Commit, s.Applied, s.Contact = r.u64(), r.u64(), r.u64(), r.u64(), time.Duration(r.u64())
	s.Serving = r.bool()
	if r.err == nil && len(r.b) > 0 {
		s.StoreTime, s.LogBytes, s.LogLimit = time.Duration(r.u64()), r.u64(), r.u64()
	}
	if r.err == nil && len(r.b) > 0 {
		s.Draining = r.bool()
	}
	if r.err == nil && len(r.b) > 0 {
		s.Floor = r.u64()
	}
	if r.err == nil && len(r.b) > 0 {
		s.SlowLeft = time.Duration(r.u64())
	}
	return s, r.err
}
