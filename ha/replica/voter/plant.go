package voter

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
)

// Base is where the raft of a member that is seeded begins: a note of another
// member, and for a witness the entry that the note ends at.
type Base struct {
	Term uint64 `json:"term"` // that the giver had reached

	Index              uint64 `json:"index"` // of the note, 0: there is none
	NoteTerm           uint64 `json:"note_term"`
	ConfigurationIndex uint64 `json:"configuration_index"`
	Configuration      []byte `json:"configuration,omitempty"`
	Applied            uint64 `json:"applied"` // by the note

	Entry *BaseEntry `json:"entry,omitempty"`
}

// BaseEntry is an entry of the log, whole.
type BaseEntry struct {
	Index      uint64 `json:"index"`
	Term       uint64 `json:"term"`
	Type       uint8  `json:"type"`
	Data       []byte `json:"data,omitempty"`
	Extensions []byte `json:"extensions,omitempty"`
}

// Base returns what a new member begins with. For a data replica it is the
// newest note: a copy of the state made afterwards holds at least what the note
// says. For a witness it is a note that lies below the floor, so that its log
// reaches back as far as those of the others have to (rule W2).
func (v *Voter) Base(witness bool) (Base, error) {
	r := v.Raft()
	if r == nil {
		return Base{}, errors.New("voter: does not take part yet")
	}
	b := Base{Term: r.CurrentTerm()}
	notes, err := v.Manifests.List()
	if err != nil {
		return b, err
	}
	for _, m := range notes {
		if witness && m.Index >= v.Floor() {
			continue
		}
		applied, err := v.Manifests.AppliedOf(m.ID)
		if err != nil {
			return b, err
		}
		b.Index, b.NoteTerm, b.ConfigurationIndex = m.Index, m.Term, m.ConfigurationIndex
		b.Configuration, b.Applied = raft.EncodeConfiguration(m.Configuration), applied
		break
	}
	if !witness {
		return b, nil
	}
	first, err := v.log.FirstIndex()
	if err != nil {
		return b, err
	}
	at := max(b.Index, 1)
	if b.Index == 0 && first > 1 {
		// The notes are all newer than the floor, which stands still: it begins
		// where the log does.
		if err := b.backTo(first, v.Floor(), notes); err != nil {
			return b, err
		}
		at = first
	}
	var e raft.Log
	if err := v.log.GetLog(at, &e); err != nil {
		return b, fmt.Errorf("voter: entry %d: %w", at, err)
	}
	if b.Index > 0 {
		b.NoteTerm = e.Term
	}
	b.Entry = &BaseEntry{e.Index, e.Term, uint8(e.Type), e.Data, e.Extensions}
	return b, nil
}

// backTo makes a base at an index before all notes, the oldest of which knows the
// configuration at it.
func (b *Base) backTo(index, floor uint64, notes []*raft.SnapshotMeta) error {
	if len(notes) > 0 && index <= floor {
		if m := notes[len(notes)-1]; m.ConfigurationIndex <= index {
			b.Index, b.ConfigurationIndex, b.Configuration = index, m.ConfigurationIndex, raft.EncodeConfiguration(m.Configuration)
			return nil
		}
	}
	return fmt.Errorf("voter: no note below the floor, %d, yet", floor)
}

// check refuses a base that no giver makes.
func (b *Base) check(kind manifest.Kind) error {
	switch {
	case b.Term == 0 || b.NoteTerm > b.Term:
		return fmt.Errorf("voter: base of term %d, note of %d", b.Term, b.NoteTerm)
	case kind == manifest.Witness && b.Entry == nil:
		return errors.New("voter: base without an entry")
	case b.Entry != nil && (b.Entry.Index != max(b.Index, 1) || b.Entry.Term > b.Term || b.Entry.Type > uint8(raft.LogConfiguration)):
		return fmt.Errorf("voter: base at %d with entry %d", b.Index, b.Entry.Index)
	}
	return nil
}

// Plant writes the metadata of raft into the directory of a member that is
// seeded. Doing it again changes nothing. The directory's log is there already;
// that of a witness is made.
func Plant(fsys fsx.FS, dir, id string, kind manifest.Kind, b Base) error {
	if err := b.check(kind); err != nil {
		return err
	}
	if err := fsx.MkdirAllSync(fsys, filepath.Join(dir, "raft"), 0o700); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	stable, err := seglog.OpenStable(fsys, filepath.Join(dir, "raft", "stable"), nil)
	if err != nil {
		return err
	}
	err = errors.Join(stable.SetUint64([]byte("CurrentTerm"), b.Term), stable.Close())
	if err != nil {
		return err
	}
	if err := plantNote(fsys, filepath.Join(dir, "raft", "snapshots"), id, kind, b); err != nil {
		return err
	}
	if kind != manifest.Witness {
		return nil
	}
	log, err := seglog.Open(seglog.Config{Dir: filepath.Join(dir, "log"), FS: fsys, SegmentSize: 1 << 20, Trim: seglog.Recycle})
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err == nil && last == 0 {
		err = log.StoreLog(&raft.Log{
			Index: b.Entry.Index, Term: b.Entry.Term, Type: raft.LogType(b.Entry.Type), Data: b.Entry.Data, Extensions: b.Entry.Extensions,
		})
	}
	return errors.Join(err, log.Close())
}

func plantNote(fsys fsx.FS, dir, id string, kind manifest.Kind, b Base) error {
	notes, err := manifest.Open(fsys, dir, kind, id, nil)
	if err != nil || b.Index == 0 {
		return err
	}
	conf, err := decodeConfiguration(b.Configuration)
	if err != nil {
		return err
	}
	sink, err := notes.Create(raft.SnapshotVersionMax, b.Index, b.NoteTerm, conf, b.ConfigurationIndex, nil)
	if err != nil {
		return err
	}
	n := manifest.Note{Kind: kind, Origin: id}
	if kind == manifest.Data {
		n.Applied = b.Applied
	}
	if _, err := sink.Write(n.Encode()); err != nil {
		return err
	}
	return sink.Close()
}

// decodeConfiguration does not panic at what is no configuration.
func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("voter: malformed configuration: %v", p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}
