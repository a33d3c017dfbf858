package voter

import "fmt"

// Trim moves the first index of the log up to the newest note below the floor.
// The frames before it stay as mail, and may be compacted; raft does not ask for
// them any more. A member that is seeded begins with this note, or a newer one.
func (v *Voter) Trim() error {
	notes, err := v.Manifests.List()
	if err != nil {
		return err
	}
	first, err := v.log.FirstIndex()
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	for _, m := range notes {
		if m.Index >= v.Floor() {
			continue
		}
		if m.Index <= first || first == 0 {
			return nil
		}
		if err := v.log.DeleteRange(first, m.Index-1); err != nil {
			return fmt.Errorf("voter: %w", err)
		}
		return nil
	}
	return nil
}
