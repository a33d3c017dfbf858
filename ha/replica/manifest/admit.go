//go:build !planted_witness_snapshot

package manifest

import (
	"fmt"
	"path/filepath"

	"github.com/postern-mail/postern/shared/fsx"
)

// admit decides about a note before it is published.
func (s *Store) admit(f *file, own bool) error {
	switch {
	case own:
		return nil
	case s.self.Kind == Witness && f.Note.Kind == Data:
		f.Note = s.self // there is no state here that it could describe
		return nil
	case s.self.Kind == Witness:
		return fmt.Errorf("manifest: from %s: %w", f.Note.Origin, ErrWitness)
	case f.Note.Kind != Data:
		return fmt.Errorf("manifest: from %s: %w", f.Note.Origin, ErrWitness)
	}
	why := fmt.Sprintf("replica %s offers its state at entry %d", f.Note.Origin, f.Index)
	err := fmt.Errorf("manifest: %s: %w", why, ErrReseed)
	if werr := fsx.WriteFileAtomic(s.fs, filepath.Join(s.dir, reseedName), []byte(why+"\n")); werr != nil {
		err = fmt.Errorf("%w; not marked: %w", err, werr)
	}
	if s.onReseed != nil {
		s.onReseed(err)
	}
	return err
}
