package voter

import "fmt"

// Trim moves the first index of the log up to the newest note, or to the floor if
// that is lower. The frames before it stay as mail, and may be compacted; raft does
// not ask for them any more. In a group where nothing is committed the floor stays
// where the last command was, mostly below the note made since: what lies below
// both goes all the same.
func (v *Voter) Trim() error {
	notes, err := v.Manifests.List()
	if err != nil {
		return err
	}
	first, err := v.log.FirstIndex()
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	if len(notes) == 0 || first == 0 {
		return nil
	}
	// A note that is newer than the floor has the log from the floor on: what a
	// member that is behind asks for.
	to := min(notes[0].Index, v.Floor())
	if to <= first {
		return nil
	}
	if err := v.log.DeleteRange(first, to-1); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return nil
}
