package voter

import (
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// survivor makes the directory of a data replica of three members with some
// entries in its log.
func survivor(t *testing.T) (*faultfs.FS, Config) {
	t.Helper()
	fsys := faultfs.New(1)
	cfg := createConfig(fsys)
	for i := range cfg.Peers {
		cfg.Peers[i].Witness = cfg.Peers[i].ID != cfg.ID
	}
	if err := Create(cfg, manifest.Data); err != nil {
		t.Fatal(err)
	}
	cfg.Bootstrap = false
	v := open(t, cfg, manifest.Data)
	for i := uint64(2); i <= 20; i++ {
		if err := v.log.StoreLog(&raft.Log{Index: i, Term: 3, Data: []byte("mail")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Stable.SetUint64([]byte("CurrentTerm"), 3); err != nil {
		t.Fatal(err)
	}
	if err := v.release(); err != nil {
		t.Fatal(err)
	}
	return fsys, cfg
}

func open(t *testing.T, cfg Config, kind manifest.Kind) *Voter {
	t.Helper()
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	v := &Voter{cfg: cfg, role: Role{Kind: kind}}
	if err := errors.Join(v.takeDir(), v.openStores()); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRecoverAlone makes the group one of one member, and cuts the power at each
// moment of that.
func TestRecoverAlone(t *testing.T) {
	_, cfg := survivor(t)
	rec, err := Survey(cfg, manifest.Data, 12)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Alone || rec.Last != 20 || rec.Known != 12 || rec.Term != 3 || len(rec.Members) != len(cfg.Peers) {
		t.Errorf("survey %+v", rec)
	}
	if again, err := Survey(cfg, manifest.Data, 12); err != nil || again.Last != rec.Last || again.Alone {
		t.Errorf("a survey changes something: %+v, %v", again, err)
	}
	if _, err := RecoverAlone(cfg, manifest.Witness, 0); err == nil {
		t.Error("a witness goes on alone")
	}
	fsys, _ := survivor(t)
	from := fsys.Ops()
	for n := from + 1; ; n++ {
		fsys, cfg := survivor(t)
		fsys.CrashAfter(n)
		_, err := RecoverAlone(cfg, manifest.Data, 12)
		cfg.FS = fsys.Crash(uint64(n))
		if _, err := RecoverAlone(cfg, manifest.Data, 12); err != nil {
			t.Fatalf("cut after operation %d: %v", n, err)
		}
		rec, err2 := RecoverAlone(cfg, manifest.Data, 12)
		if err2 != nil || !rec.Alone || rec.Last != 21 || len(rec.Members) != 1 || rec.Members[0].ID != cfg.ID {
			t.Fatalf("cut after operation %d: %+v, %v", n, rec, err2)
		}
		v := open(t, cfg, manifest.Data)
		for i := uint64(2); i <= 20; i++ {
			if data, err := v.log.ReadEntry(i, nil); err != nil || string(data) != "mail" {
				t.Fatalf("cut after operation %d: entry %d: %q, %v", n, i, data, err)
			}
		}
		if !slices.ContainsFunc(cfg.Peers, func(p Peer) bool { return p.ID != cfg.ID && v.givenUp(p.ID) }) || v.givenUp(cfg.ID) {
			t.Fatalf("cut after operation %d: %q are given up", n, v.lost)
		}
		term, terr := v.Stable.GetUint64([]byte("CurrentTerm"))
		var e raft.Log
		if lerr := v.log.GetLog(21, &e); lerr != nil || terr != nil || e.Term > term || e.Term < 4 {
			t.Fatalf("cut after operation %d: entry of term %d in term %d: %v, %v", n, e.Term, term, lerr, terr)
		}
		if err := v.release(); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if n < from+5 {
				t.Errorf("only %d operations", n-from)
			}
			return
		}
	}
}

// TestPlant cuts the power while the metadata of a new witness is written.
func TestPlant(t *testing.T) {
	const dir = "/pairs/w"
	group := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "x:1|a"}, {ID: "w", Address: "x:2|w|w"}}}
	base := Base{
		Term: 9, Index: 500, NoteTerm: 8, ConfigurationIndex: 300, Configuration: raft.EncodeConfiguration(group), Applied: 499,
		Entry: &BaseEntry{Index: 500, Term: 8, Data: []byte("mail")},
	}
	for _, bad := range []Base{
		{},
		{Term: 9, Index: 500, NoteTerm: 8},
		{Term: 7, Index: 500, NoteTerm: 8, Entry: base.Entry},
		{Term: 9, Index: 501, NoteTerm: 8, Entry: base.Entry},
	} {
		if err := Plant(faultfs.New(1), dir, "w", manifest.Witness, bad); err == nil {
			t.Errorf("planted %+v", bad)
		}
	}
	garbled := base
	garbled.Configuration = []byte("x")
	if err := Plant(faultfs.New(1), dir, "w", manifest.Witness, garbled); err == nil {
		t.Error("a garbled configuration was planted")
	}
	for n := 1; ; n++ {
		fsys := faultfs.New(uint64(n))
		fsys.CrashAfter(n)
		first := Plant(fsys, dir, "w", manifest.Witness, base)
		disk := fsys.Crash(uint64(n))
		if err := Plant(disk, dir, "w", manifest.Witness, base); err != nil {
			t.Fatalf("cut after operation %d: %v", n, err)
		}
		notes, err := manifest.Open(disk, dir+"/raft/snapshots", manifest.Witness, "w", nil)
		if err != nil {
			t.Fatal(err)
		}
		note, meta, has, err := notes.Newest()
		if err != nil || !has || meta.Index != 500 || meta.Term != 8 || len(meta.Configuration.Servers) != 2 || note.Kind != manifest.Witness {
			t.Fatalf("cut after operation %d: note %+v %+v, %v", n, note, meta, err)
		}
		log, err := seglog.Open(seglog.Config{Dir: dir + "/log", FS: disk, SegmentSize: 1 << 20, Trim: seglog.Recycle})
		if err != nil {
			t.Fatal(err)
		}
		var e raft.Log
		if err := log.GetLog(500, &e); err != nil || e.Term != 8 || string(e.Data) != "mail" {
			t.Fatalf("cut after operation %d: %+v, %v", n, e, err)
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			return
		}
	}
}
