package pair

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
)

func TestOffer(t *testing.T) {
	for name, tt := range map[string]struct {
		files []file
		ok    bool
	}{
		"usual":       {[]file{{"log/1.seg", 5}, {"meta/000001.sst", 0}, {"meta/sub/x", 1}}, true},
		"none":        {nil, true},
		"up":          {[]file{{"../x", 1}}, false},
		"up inside":   {[]file{{"meta/../../x", 1}}, false},
		"absolute":    {[]file{{"/etc/passwd", 1}}, false},
		"elsewhere":   {[]file{{"raft/stable", 1}}, false},
		"the marker":  {[]file{{"seeding", 1}}, false},
		"below a log": {[]file{{"log/x/y", 1}}, false},
		"negative":    {[]file{{"log/x", -1}}, false},
		"no name":     {[]file{{"log/", 1}}, false},
		"backslash":   {[]file{{`log/..\x`, 1}}, false},
		"twice":       {[]file{{"log/x", 1}, {"log/x", 1}}, false},
		"out of turn": {[]file{{"meta/x", 1}, {"log/x", 1}}, false},
		"long":        {[]file{{"log/" + strings.Repeat("x", 600), 1}}, false},
	} {
		o := offer{Version: protocol, Session: "s", Files: tt.files}
		if err := o.check(); err == nil != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, o := range []offer{{Version: 2, Session: "s"}, {Version: protocol}, {Version: protocol, Session: strings.Repeat("s", 65)}} {
		if o.check() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func FuzzOffer(f *testing.F) {
	b, err := json.Marshal(offer{Version: protocol, Session: "s", Files: []file{{"log/x.seg", 1}}})
	must(f, err)
	f.Add(b)
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOffer(b)
		if err != nil {
			return
		}
		for _, f := range o.Files {
			if rel, err := filepath.Rel("/dir", filepath.Join("/dir", f.Path)); err != nil || strings.HasPrefix(rel, "..") {
				t.Errorf("%q leads out", f.Path)
			}
		}
	})
}

func TestPiece(t *testing.T) {
	if _, err := parsePiece([]byte("1234octets")); err == nil {
		t.Error("a wrong checksum is taken")
	}
	if _, err := parsePiece([]byte("12")); err == nil {
		t.Error("a short piece is taken")
	}
}

// TestJoinTwice makes a directory twice: the id stays; one of a member is
// refused.
func TestJoinTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "p")
	self := Peer{Name: "n", Addr: "x:1"}
	one, err := Join(fsx.OS, dir, "p", self, nil, "")
	must(t, err)
	two, err := Join(fsx.OS, dir, "p", self, []Peer{{ID: "a", Addr: "y:1"}}, "")
	must(t, err)
	if one.Self.ID == "" || one.Self.ID != two.Self.ID || len(two.Peers) != 1 {
		t.Errorf("%+v, then %+v", one, two)
	}
	if _, err := Join(fsx.OS, dir, "other", self, nil, ""); err == nil {
		t.Error("joined for another pair")
	}
	must(t, fsx.OS.Remove(filepath.Join(dir, "seeding")))
	if _, err := Join(fsx.OS, dir, "p", self, nil, ""); err == nil {
		t.Error("the directory of a member was taken")
	}
	aside, err := PutAside(fsx.OS, dir, one.Self.ID)
	must(t, err)
	three, err := Join(fsx.OS, dir, "p", self, nil, aside)
	must(t, err)
	if three.Self.ID == one.Self.ID {
		t.Error("an id came back")
	}
	must(t, removeAll(fsx.OS, aside))
	must(t, removeAll(fsx.OS, aside))
}
