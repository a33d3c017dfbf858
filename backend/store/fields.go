package store

import (
	"encoding/binary"
	"errors"
)

// errRow says that a row cannot be read. Pebble checks its blocks, so this is
// a fault of this program or of memory.
var errRow = errors.New("store: row not well formed")

func putUint(b []byte, v uint64) []byte  { return binary.AppendUvarint(b, v) }
func putSigned(b []byte, v int64) []byte { return binary.AppendVarint(b, v) }

func putString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// fields takes fields off the front of a row.
type fields struct {
	b   []byte
	err error
}

func (r *fields) fail() {
	r.b, r.err = nil, errRow
}

func (r *fields) uint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		v := r.b[0]
		r.b = r.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *fields) uint32() uint32 { return uint32(r.uint()) }
func (r *fields) int() int64     { return int64(r.uint()) }

func (r *fields) signed() int64 {
	u := r.uint()
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (r *fields) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *fields) string() string { return string(r.take(r.uint())) }

func (r *fields) sum() Sum {
	v := r.take(16)
	if len(v) < 16 {
		return Sum{}
	}
	return Sum{binary.LittleEndian.Uint64(v), binary.LittleEndian.Uint64(v[8:])}
}

// end returns the error of the row, which must be used up.
func (r *fields) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	return r.err
}
