package seglog

import (
	"bytes"
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

const fuzzSalt = 0x1122334455667788

// fuzzSegment returns the bytes of a small segment, sealed or not.
func fuzzSegment(sealed bool) []byte {
	h := header{salt: fuzzSalt, seq: 1, base: 1}
	s := &segment{header: h, seed: seedOf(h.salt), end: headerSize, fresh: true}
	var c encoder
	c.encode(s, batch(1, 1, 3, 50))
	b := bytes.Join(c.bufs, nil)
	if !sealed {
		return append(b, make([]byte, 200)...)
	}
	s.end, s.count, s.fileCRC = int64(len(b)), 3, c.fileCRC
	offs := []uint32{headerSize, uint32(headerSize + frameLen(50, 0)), uint32(headerSize + 2*frameLen(50, 0))}
	return append(b, sealBytes(s, offs, nil, s.end)...)
}

// FuzzSegment gives Open a segment file with any content. It must not panic,
// and what it accepts must read back as entries in order.
func FuzzSegment(f *testing.F) {
	f.Add(fuzzSegment(false), false)
	f.Add(fuzzSegment(true), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, data []byte, prepared bool) {
		fsys := faultfs.New(1)
		name := "/log/" + (&header{salt: fuzzSalt, base: 1}).name()
		if prepared {
			name = "/log/0000000000000001.pre"
		}
		must(t, fsys.MkdirAll("/log", 0o700))
		file, err := fsx.Create(fsys, name)
		must(t, err)
		_, err = file.WriteAt(data, 0)
		must(t, err)
		l, err := Open(Config{Dir: "/log", FS: fsys, SegmentSize: 4096, inline: true})
		if err != nil {
			return
		}
		defer l.Close()
		first, err := l.FirstIndex()
		must(t, err)
		last, err := l.LastIndex()
		must(t, err)
		for i := first; i <= last && i != 0 && i < first+1000; i++ {
			var e raft.Log
			if err := l.GetLog(i, &e); err != nil && !errors.Is(err, ErrCorrupt) || err == nil && e.Index != i {
				t.Fatalf("entry %d: %v %v", i, e.Index, err)
			}
		}
	})
}

// FuzzFrame decodes a frame header whose CRC is right.
func FuzzFrame(f *testing.F) {
	b := make([]byte, frameSize)
	h := frameOf(entry(1, 1, 10), 7, 0, 0)
	h.put(b, 7)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseFrame(b, 7); err == nil {
			again := make([]byte, frameSize)
			h.put(again, 7)
			if !bytes.Equal(again[:40], b[:40]) {
				t.Error("encoding again differs")
			}
			_ = h.check(b[frameSize:], 7)
		}
	})
}

func FuzzFirst(f *testing.F) {
	f.Add(firstMark{7, 3}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseFirst(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%q is not what it encodes to", b)
		}
	})
}
