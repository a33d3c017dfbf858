package voter

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func createConfig(fsys *faultfs.FS) Config {
	return Config{
		Dir: "/pairs/w", Pair: "pair1", ID: "w", FS: fsys, SegmentSize: 64 << 10, OnFatal: func(error) {},
		// Long names, so that the first entry can be torn.
		Peers: []Peer{{ID: "a", Addr: strings.Repeat("a", 2000) + ":1"}, {ID: "b", Addr: "b:1"}, {ID: "w", Addr: "w:1", Witness: true}},
	}
}

// opened opens directory and stores as Open does, without the network.
func opened(cfg Config) (*Voter, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v := &Voter{cfg: cfg, role: Role{Kind: manifest.Witness}}
	err := v.takeDir()
	if err == nil {
		err = v.openStores()
	}
	if err == nil {
		return v, nil
	}
	return nil, errors.Join(err, v.release())
}

// TestCreateCrash cuts the power after each operation of Create: what is left
// is refused or whole, and Create can be repeated.
func TestCreateCrash(t *testing.T) {
	whole := faultfs.New(1)
	if err := Create(createConfig(whole), manifest.Witness); err != nil {
		t.Fatal(err)
	}
	states, refused := 0, 0
	for at := 1; at <= whole.Ops()+1; at++ {
		fsys := faultfs.New(uint64(at))
		fsys.CrashAfter(at)
		made := Create(createConfig(fsys), manifest.Witness) == nil
		for seed := range uint64(20) {
			states++
			disk := fsys.Crash(seed)
			v, err := opened(createConfig(disk))
			switch {
			case err == nil:
				checkBegin(t, v, at, seed)
			case made:
				t.Fatalf("crash after %d, seed %d: made, and then: %v", at, seed, err)
			case errors.Is(err, ErrNoDirectory), errors.Is(err, ErrNoLog):
				refused++
			default:
				t.Fatalf("crash after %d, seed %d: %v", at, seed, err)
			}
			if err := Create(createConfig(disk), manifest.Witness); err != nil {
				t.Fatalf("crash after %d, seed %d: made again: %v", at, seed, err)
			}
			if v, err = opened(createConfig(disk)); err != nil {
				t.Fatalf("crash after %d, seed %d: made again, and then: %v", at, seed, err)
			}
			checkBegin(t, v, at, seed)
		}
	}
	t.Logf("%d crash states", states)
	if refused == 0 {
		t.Error("no state was refused: the test tests nothing")
	}
}

// TestCreateKilled ends the process after each operation of Create, makes the
// directory again, and cuts the power then: what Create made is there.
func TestCreateKilled(t *testing.T) {
	whole := faultfs.New(1)
	if err := Create(createConfig(whole), manifest.Witness); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= whole.Ops()+1; at++ {
		fsys := faultfs.New(uint64(at))
		fsys.CrashAfter(at)
		_ = Create(createConfig(fsys), manifest.Witness) // fails, except at the end
		fsys.CrashAfter(1 << 40)
		if err := Create(createConfig(fsys), manifest.Witness); err != nil {
			t.Fatalf("killed after %d: made again: %v", at, err)
		}
		for seed := range uint64(10) {
			v, err := opened(createConfig(fsys.Crash(seed)))
			if err != nil {
				t.Fatalf("killed after %d, made again, power cut, seed %d: %v", at, seed, err)
			}
			checkBegin(t, v, at, seed)
		}
	}
}

// checkBegin checks that a log begins with the group's configuration.
func checkBegin(t *testing.T, v *Voter, at int, seed uint64) {
	t.Helper()
	var e raft.Log
	if err := v.log.GetLog(1, &e); err != nil || e.Type != raft.LogConfiguration || len(raft.DecodeConfiguration(e.Data).Servers) != 3 {
		t.Errorf("crash after %d, seed %d: entry 1 is %+v, %v", at, seed, e, err)
	}
	if term, err := v.Stable.GetUint64([]byte("CurrentTerm")); err != nil || term != 1 {
		t.Errorf("crash after %d, seed %d: term %d, %v", at, seed, term, err)
	}
	if err := v.release(); err != nil {
		t.Errorf("crash after %d, seed %d: %v", at, seed, err)
	}
}

// note gives a member a snapshot.
func note(v *Voter) error {
	k, err := v.Manifests.Create(1, 5, 1, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	_, err = k.Write(manifest.Note{Kind: manifest.Witness, Origin: "w"}.Encode())
	return errors.Join(err, k.Close())
}

// TestNoteBeforeLog: a witness that ended between taking a note of the leader and
// emptying its log goes on after the note; one whose log reaches it keeps the log.
func TestNoteBeforeLog(t *testing.T) {
	for name, tt := range map[string]struct{ last, want uint64 }{
		"the log ends before": {3, 0}, "it ends there": {5, 5}, "and after it": {7, 7},
	} {
		cfg := createConfig(faultfs.New(1))
		cfg.Bootstrap = true
		v, err := opened(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= tt.last; i++ {
			if err := v.log.StoreLog(&raft.Log{Index: i, Term: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(note(v), v.release()); err != nil {
			t.Fatal(err)
		}
		cfg.Bootstrap = false
		for range 2 {
			if v, err = opened(cfg); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if last, err := v.log.LastIndex(); last != tt.want || err != nil {
				t.Errorf("%s: the log ends at %d, %v, want %d", name, last, err, tt.want)
			}
			if err := v.release(); err != nil {
				t.Fatal(err)
			}
		}
		if v, err = opened(cfg); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(v.log.StoreLog(&raft.Log{Index: max(tt.want, 5) + 1, Term: 2}), v.release()); err != nil {
			t.Errorf("%s: the next entry: %v", name, err)
		}
	}
}

// TestLostLog checks what is said of a directory whose log is gone.
func TestLostLog(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Voter) error
		create bool
		want   error
	}{
		"run, never made":         {func(*Voter) error { return nil }, false, ErrNoLog},
		"made again, interrupted": {func(v *Voter) error { return v.Stable.SetUint64([]byte("CurrentTerm"), 1) }, true, nil},
		"made again, has run":     {func(v *Voter) error { return v.Stable.SetUint64([]byte("CurrentTerm"), 2) }, true, ErrNoLog},
		"made again, has voted":   {func(v *Voter) error { return v.Stable.SetUint64([]byte("LastVoteTerm"), 1) }, true, ErrNoLog},
		"made again, snapshot":    {note, true, ErrNoLog},
		"after a snapshot": {func(v *Voter) error {
			return errors.Join(v.log.StoreLog(&raft.Log{Index: 1, Term: 1}), note(v), v.log.DeleteRange(1, 1))
		}, false, nil},
	} {
		fsys := faultfs.New(1)
		cfg := createConfig(fsys)
		cfg.Bootstrap = true
		v, err := opened(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(tt.change(v), v.release()); err != nil {
			t.Fatal(err)
		}
		if tt.create {
			err = Create(cfg, manifest.Witness)
		} else {
			cfg.Bootstrap = false
			if v, err = opened(cfg); err == nil {
				err = v.release()
			}
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}
