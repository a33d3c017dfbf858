package directory

import "strings"

// RenameNote is the attribute in which package edit notes a change of a name that
// takes several writes, until it is done; the others begin its two values, what was
// asked for and how things were called.
const (
	RenameNote    = "description"
	RenameRequest = "postern rename: "
	RenameFrom    = "postern rename from: "
)

// IsRenameNote reports whether a value of RenameNote is such a note.
func IsRenameNote(v string) bool {
	v = strings.ToLower(v)
	return strings.HasPrefix(v, RenameRequest) || strings.HasPrefix(v, RenameFrom)
}
