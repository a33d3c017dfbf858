package mailbox

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzPicture decodes what somebody has made up. What is accepted is in order,
// and written again as it was.
func FuzzPicture(f *testing.F) {
	var p picture
	p.mailbox, p.uidValidity, p.uidNext, p.modSeq, p.keywords = 7, 8, 100, 9, 2
	p.uids.addRun(1, 5)
	p.uids.addRun(9, 10)
	p.uids.addRun(20, 100)
	p.gone = []uint32{2, 4, 50}
	b := p.encode(1000)
	f.Add(b)
	f.Add([]byte{1, 1, 1, 1, 1, 1, 0, 0})
	for n := range b {
		f.Add(b[:n])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePicture(b)
		if err != nil {
			return
		}
		again := p.encode(2*len(b) + 100)
		q, err := decodePicture(again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v, %v, want %+v", q, err, p)
		}
		if most := len(again) - 1; p.encode(most) != nil {
			t.Errorf("longer than %d octets", most)
		}
		if len(b) == len(again) && !bytes.Equal(b, again) {
			t.Errorf("%x is written as %x", b, again)
		}
		last := uint32(0)
		for _, uid := range p.gone {
			if _, ok := p.uids.seq(uid); !ok || uid <= last {
				t.Errorf("gone: %v", p.gone)
			}
			last = uid
		}
		left := p.uids
		left.remove(p.gone)
		if left.len() != p.uids.len()-len(p.gone) {
			t.Errorf("%d of %d are left without %v", left.len(), p.uids.len(), p.gone)
		}
	})
}
