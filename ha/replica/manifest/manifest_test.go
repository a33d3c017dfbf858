package manifest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

var conf = raft.Configuration{Servers: []raft.Server{
	{ID: "a", Address: "10.0.0.1:1"}, {ID: "b", Address: "10.0.0.2:1"}, {ID: "w", Address: "10.0.0.3:1"},
}}

func write(s *Store, index uint64, n Note) error {
	k, err := s.Create(1, index, 3, conf, 1, nil)
	if err != nil {
		return err
	}
	if _, err := k.Write(n.Encode()); err != nil {
		return err
	}
	return k.Close()
}

func TestAdmission(t *testing.T) {
	for name, tt := range map[string]struct {
		self   Kind
		note   Note
		want   error
		reseed bool
	}{
		"data, own":                {Data, Note{Kind: Data, Origin: "a", Applied: 7}, nil, false},
		"data, of a witness":       {Data, Note{Kind: Witness, Origin: "w"}, ErrWitness, false},
		"data, of a witness as us": {Data, Note{Kind: Witness, Origin: "a"}, ErrWitness, false},
		"data, of the other":       {Data, Note{Kind: Data, Origin: "b", Applied: 7}, ErrReseed, true},
		"witness, own":             {Witness, Note{Kind: Witness, Origin: "a"}, nil, false},
		"witness, of data":         {Witness, Note{Kind: Data, Origin: "b", Applied: 7}, nil, false},
		"witness, of a witness":    {Witness, Note{Kind: Witness, Origin: "v"}, ErrWitness, false},
	} {
		fsys := faultfs.New(1)
		told := 0
		s, err := Open(fsys, "/s", tt.self, "a", func(error) { told++ })
		if err != nil {
			t.Fatal(err)
		}
		if err := write(s, 9, tt.note); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		list, err := s.List()
		if err != nil || len(list) != map[bool]int{true: 1}[tt.want == nil] {
			t.Errorf("%s: %d published, %v", name, len(list), err)
		}
		_, err = Open(fsys.Crash(0), "/s", tt.self, "a", nil)
		if marked := errors.Is(err, ErrReseed); marked != tt.reseed || told != map[bool]int{true: 1}[tt.reseed] {
			t.Errorf("%s: marked for re-seeding %v, told %d times: %v", name, marked, told, err)
		}
	}
}

func TestWitnessDoesNotSend(t *testing.T) {
	s, err := Open(faultfs.New(1), "/s", Witness, "w", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(s, 5, Note{Kind: Witness, Origin: "w"}); err != nil {
		t.Fatal(err)
	}
	list, _ := s.List()
	if _, _, err := s.Open(list[0].ID); !errors.Is(err, ErrNotSent) {
		t.Errorf("Open of our own: %v", err)
	}
	if err := write(s, 8, Note{Kind: Data, Origin: "a", Applied: 8}); err != nil {
		t.Fatal(err)
	}
	list, _ = s.List()
	m, r, err := s.Open(list[0].ID) // raft restores what it received
	if err != nil || m.Index != 8 {
		t.Fatalf("Open of a received one: %v, %v", m, err)
	}
	if b, _ := io.ReadAll(r); bytes.Contains(b, []byte("data")) {
		t.Errorf("a witness keeps the note as %s", b)
	}
	if _, _, err := s.Open(list[0].ID); !errors.Is(err, ErrNotSent) {
		t.Errorf("Open of a received one, to send it: %v", err)
	}
}

func TestKeepAndReload(t *testing.T) {
	fsys := faultfs.New(1)
	s, err := Open(fsys, "/s", Data, "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 5; i++ {
		if err := write(s, 100*i, Note{Kind: Data, Origin: "a", Applied: 100*i - 1}); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range uint64(20) {
		s, err = Open(fsys.Crash(seed), "/s", Data, "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		note, m, ok, err := s.Newest()
		if err != nil || !ok || m.Index != 500 || m.Term != 3 || note.Applied != 499 || len(m.Configuration.Servers) != 3 || m.Configuration.Servers[1] != conf.Servers[1] {
			t.Fatalf("seed %d: %+v %+v %v %v", seed, note, m, ok, err)
		}
	}
	if list, _ := s.List(); len(list) < keep || list[0].Index < list[1].Index {
		t.Errorf("list %v", list)
	}
	if k, err := s.Create(1, 1, 1, conf, 1, nil); err != nil {
		t.Error(err)
	} else if _, err := k.Write(make([]byte, maxNote+1)); err == nil {
		t.Error("a snapshot with data was taken")
	}
}

func FuzzParse(f *testing.F) {
	v := file{Version: 1, Index: 3, Note: Note{Kind: Data, Origin: "a"}}
	b, _ := v.encode()
	f.Add(b)
	f.Add([]byte("{}\n00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parse(b); err == nil && v.Version != 1 {
			t.Errorf("accepted version %d", v.Version)
		}
	})
}
