package store

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// Sum is a digest of a set of rows: the sum of their hashes, so that it does
// not depend on order and a row can be taken out again. It finds differences
// between replicas; it is no defence against somebody who makes them.
type Sum [2]uint64

// Add puts in what other holds.
func (s *Sum) Add(other Sum) { s[0] += other[0]; s[1] += other[1] }

// Sub takes out what other holds.
func (s *Sum) Sub(other Sum) { s[0] -= other[0]; s[1] -= other[1] }

// String prints s in hexadecimal, 32 characters.
func (s Sum) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], s[0])
	binary.BigEndian.PutUint64(b[8:], s[1])
	return hex.EncodeToString(b[:])
}

func (s Sum) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, s[0])
	return binary.LittleEndian.AppendUint64(b, s[1])
}

// Odd constants with about as many ones as zeros, from the digits of pi, the
// golden ratio, e, and a prime.
const (
	mix0 = 0x243f6a8885a308d3
	mix1 = 0x9e3779b97f4a7c15
	mix2 = 0xb7e151628aed2a6b
	mix3 = 0xc2b2ae3d27d4eb4f
)

// rowSum is the hash of one row, 16 octets at a time: each step multiplies to
// 128 bits and folds. It is part of the format on disk.
func rowSum(key, value []byte) Sum {
	h := Sum{mix0 ^ uint64(len(key)), mix2 ^ uint64(len(value))}
	h.mix(key)
	h.mix(value)
	h.step(mix1, mix3)
	return h
}

// rowHash is the hash of one pair of words.
func rowHash(a, b uint64) Sum {
	h := Sum{mix0, mix2}
	h.step(a, b)
	h.step(mix1, mix3)
	return h
}

func (s *Sum) step(a, b uint64) {
	hi, lo := bits.Mul64(s[0]^a, mix1^b)
	hi2, lo2 := bits.Mul64(s[1]^b, mix3^a)
	s[0] = bits.RotateLeft64(s[0]+lo, 23) ^ hi2
	s[1] = bits.RotateLeft64(s[1]+lo2, 41) ^ hi
}

func (s *Sum) mix(b []byte) {
	for len(b) >= 16 {
		s.step(binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
		b = b[16:]
	}
	if len(b) > 0 {
		var last [16]byte
		copy(last[:], b)
		s.step(binary.LittleEndian.Uint64(last[:]), binary.LittleEndian.Uint64(last[8:]))
	}
}
