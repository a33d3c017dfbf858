package directory

import "strings"

// RenameNote is the attribute in which package edit notes a change of a name that
// takes several writes, until it is done.
const RenameNote = "description"

// IsRenameNote reports whether a value of RenameNote is such a note.
func IsRenameNote(v string) bool {
	v = strings.ToLower(v)
	return strings.HasPrefix(v, "postern rename: ") || strings.HasPrefix(v, "postern rename from: ")
}
