package seglog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// BenchmarkStore compares the log with the plainest durable writer: append the
// batch to a file and fdatasync. Bodies are 10 KB.
func BenchmarkStore(b *testing.B) {
	data := make([]byte, 10<<10)
	for _, n := range []int{1, 16, 64, 128} {
		b.Run(fmt.Sprintf("log/%d", n), func(b *testing.B) {
			l := open(b, Config{Dir: filepath.Join(b.TempDir(), "log")})
			logs := make([]*raft.Log, n)
			for i := range logs {
				logs[i] = &raft.Log{Index: uint64(i + 1), Term: 1, Data: data}
			}
			b.SetBytes(int64(n * len(data)))
			b.ReportAllocs()
			for b.Loop() {
				must(b, l.StoreLogs(logs))
				for _, e := range logs {
					e.Index += uint64(n)
				}
			}
			s := l.Stats()
			b.ReportMetric(float64(s.Bytes)/float64(s.Payload), "written/byte")
			must(b, l.Close())
		})
		b.Run(fmt.Sprintf("plain/%d", n), func(b *testing.B) {
			f, err := fsx.OS.OpenFile(filepath.Join(b.TempDir(), "plain"), os.O_RDWR|os.O_CREATE, 0o600)
			must(b, err)
			all, off := make([]byte, n*len(data)), int64(0)
			b.SetBytes(int64(len(all)))
			for b.Loop() {
				_, err := f.WriteAt(all, off)
				must(b, err)
				must(b, f.Sync())
				off += int64(len(all))
			}
			must(b, f.Close())
		})
	}
}

// BenchmarkReadEntry reads bodies that are in the page cache.
func BenchmarkReadEntry(b *testing.B) {
	l := open(b, Config{Dir: filepath.Join(b.TempDir(), "log"), SegmentSize: 4 << 20, CacheBytes: -1})
	for i := uint64(1); i <= 2000; i += 100 {
		must(b, l.StoreLogs(batch(i, 1, 100, 10<<10)))
	}
	buf := make([]byte, 11<<10)
	b.SetBytes(10 << 10)
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i = i%2000 + 1
		_, err := l.ReadEntry(i, buf)
		must(b, err)
	}
	must(b, l.Close())
}
