package voter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/postern-mail/postern/shared/fsx"
)

// idName is the file that says whose a directory is.
const idName = "id"

// Format is the newest level of a pair's format that this release opens.
const Format = 2

// ErrFormat: the directory is for a newer release.
var ErrFormat = errors.New("directory of a newer release")

// maxID bounds the file.
const maxID = 4 << 10

// identity is what the file "id" says. On level 1 it is "PAIR ID", a line. From
// level 2 on it is this as JSON without blanks: the release before finds no pair
// and id in it, says so with the text, and leaves the directory alone.
type identity struct {
	Format int    `json:"format"`
	Pair   string `json:"pair"`
	ID     string `json:"id"`
	Note   string `json:"note"`
}

const identityNote = "this-directory-is-of-a-newer-format:an-older-release-must-not-open-it"

func (i *identity) encode() ([]byte, error) {
	if i.Format <= 1 {
		return []byte(i.Pair + " " + i.ID + "\n"), nil
	}
	i.Note = identityNote
	b, err := json.Marshal(i)
	return append(b, '\n'), err
}

func parseID(dir string, data []byte) (i identity, err error) {
	if len(data) <= maxID && bytes.HasPrefix(data, []byte("{")) {
		if err := json.Unmarshal(data, &i); err != nil || i.Format < 2 || i.Pair == "" || i.ID == "" {
			return identity{}, fmt.Errorf("voter: %s: %.200q is no pair and id: %w", dir, data, ErrIdentity)
		}
		if i.Format > Format {
			return identity{}, fmt.Errorf("voter: %s is of format %d, this release opens formats up to %d: %w", dir, i.Format, Format, ErrFormat)
		}
		return i, nil
	}
	pair, id, ok := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	if !ok || pair == "" || id == "" {
		return identity{}, fmt.Errorf("voter: %s: %.200q is no pair and id: %w", dir, data, ErrIdentity)
	}
	return identity{Format: 1, Pair: pair, ID: id}, nil
}

func readID(fsys fsx.FS, dir string) (identity, error) {
	data, err := fsx.ReadFile(fsys, filepath.Join(dir, idName))
	if err != nil {
		return identity{}, fmt.Errorf("voter: %w", err)
	}
	return parseID(dir, data)
}

// ReadID returns the pair and the id of the member that a directory belongs to.
// One that is not there, or was never made, is fs.ErrNotExist; one of a format
// that this release does not know, ErrFormat.
func ReadID(fsys fsx.FS, dir string) (pair, id string, err error) {
	i, err := readID(fsys, dir)
	return i.Pair, i.ID, err
}

// ReadFormat returns the level of a member's directory.
func ReadFormat(fsys fsx.FS, dir string) (int, error) {
	i, err := readID(fsys, dir)
	return i.Format, err
}

// WriteID makes a directory that of a member.
func WriteID(fsys fsx.FS, dir, pair, id string) error {
	return writeID(fsys, dir, identity{Format: 1, Pair: pair, ID: id})
}

// Raise notes that the directory of a member is of a level. When it returns nil,
// a release that does not know the level refuses the directory. It never lowers
// one.
func Raise(fsys fsx.FS, dir string, level int) error {
	i, err := readID(fsys, dir)
	if err != nil || level <= i.Format {
		return err
	}
	if level > Format {
		return fmt.Errorf("voter: %s: format %d: %w", dir, level, ErrFormat)
	}
	i.Format = level
	return writeID(fsys, dir, i)
}

func writeID(fsys fsx.FS, dir string, i identity) error {
	data, err := i.encode()
	if err == nil {
		err = fsx.WriteFileAtomic(fsys, filepath.Join(dir, idName), data)
	}
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return nil
}
