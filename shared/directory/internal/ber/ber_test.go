package ber

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	for _, n := range []int64{0, 1, -1, 127, 128, -128, -129, 255, 256, 1<<31 - 1, -1 << 31, 1<<63 - 1, -1 << 63} {
		var w Encoder
		w.Integer(TagInteger, n)
		got, rest, err := ExpectInt(w.B, TagInteger)
		if err != nil || got != n || len(rest) > 0 || len(w.B) > 3 && (w.B[2] == 0 && w.B[3] < 0x80 || w.B[2] == 0xff && w.B[3] >= 0x80) {
			t.Errorf("%d is % x, which reads as %d, %v", n, w.B, got, err)
		}
	}
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 20} {
		var w Encoder
		s := strings.Repeat("x", n)
		seq := w.Begin(TagSequence)
		w.Octets(TagOctets, s)
		w.End(seq)
		frame, err := ReadFrame(bufio.NewReader(bytes.NewReader(w.B)), nil, 2<<20)
		if err != nil {
			t.Fatal(err)
		}
		got, rest, err := Expect(frame, TagOctets)
		if err != nil || string(got) != s || len(rest) > 0 {
			t.Errorf("%d octets read as %d, %v", n, len(got), err)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, s := range []string{"", "\x04", "\x04\x01", "\x04\x80", "\x04\x85\x01\x01\x01\x01\x01", "\x1f\x01a", "\x04\x84\xff\xff\xff\xff", "\x04\x82\x01"} {
		if e, _, err := Next([]byte(s)); !errors.Is(err, ErrSyntax) {
			t.Errorf("Next(%q) = %+v, %v", s, e, err)
		}
	}
	for s, want := range map[string]error{"\x30": io.EOF, "\x04\x01a": ErrSyntax, "\x30\x80": ErrSyntax, "\x30\x84\x00\x01\x00\x00": ErrTooLong, "\x30\x05abc": io.ErrUnexpectedEOF} {
		if b, err := ReadFrame(bufio.NewReader(strings.NewReader(s)), nil, 1000); !errors.Is(err, want) {
			t.Errorf("ReadFrame(%q) = %q, %v, want %v", s, b, err, want)
		}
	}
	for _, b := range [][]byte{{}, make([]byte, 9)} {
		if n, err := Integer(b); err == nil {
			t.Errorf("Integer(% x) = %d", b, n)
		}
	}
	if _, _, err := ExpectBool([]byte{TagBoolean, 2, 0, 0}); err == nil {
		t.Error("a boolean of two octets")
	}
}

func FuzzNext(f *testing.F) {
	f.Add([]byte("\x30\x03\x04\x01a\x02\x01\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		for rest := b; len(rest) > 0; {
			e, r, err := Next(rest)
			if err != nil {
				return
			}
			if total += len(e.Body) + 2; total > len(b) {
				t.Fatalf("elements of %d octets in %d", total, len(b))
			}
			rest = r
		}
	})
}
