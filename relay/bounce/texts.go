package bounce

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/directory"
)

// Bounds of the texts.
const (
	maxLanguages = 100
	maxTextFile  = 64 << 10
	maxTextLine  = 400 // octets, before anything is put in
)

// usualLanguage is the language of people who want none that there is.
const usualLanguage = "en"

//go:embed texts/*.txt
var embedded embed.FS

// section is a part of a language's texts: the lines of it, and the subject of
// those that begin a notification.
type section struct {
	subject string
	lines   []string
}

// holders are the sections beside the kinds of notifications, and what can be
// put into each. All of them but closing must be there.
var holders = map[string][]string{
	"author": nil, "greeting": {"host"}, "closing": {"host"}, "said": {"server", "reply"}, "until": {"until"},
}

// language is the texts of one language, by the names of their sections.
type language map[string]section

// Texts are the words of notifications, by language.
type Texts struct {
	languages map[string]language // by tag in lower case
}

// Languages are the tags that there are texts for.
func (t *Texts) Languages() []string { return slices.Sorted(maps.Keys(t.languages)) }

// Has reports whether there are texts of a tag, whatever its case.
func (t *Texts) Has(tag string) bool { return t.languages[strings.ToLower(tag)] != nil }

// LoadTexts reads the texts that come with the program and then those of dir,
// nil for none: files called LANGUAGE.txt. A section there replaces that of the
// language, and a new language has all of them.
func LoadTexts(dir fs.FS) (*Texts, error) {
	t := &Texts{languages: map[string]language{}}
	own, err := fs.Sub(embedded, "texts")
	if err != nil {
		return nil, err
	}
	for _, from := range []fs.FS{own, dir} {
		if from == nil {
			continue
		}
		if err := t.add(from); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add reads the files of dir.
func (t *Texts) add(dir fs.FS) error {
	files, err := fs.Glob(dir, "*.txt")
	if err != nil {
		return err
	}
	if files == nil { // Glob hides why
		if _, err := fs.ReadDir(dir, "."); err != nil {
			return err
		}
	}
	for _, name := range files {
		tag := strings.ToLower(strings.TrimSuffix(path.Base(name), ".txt"))
		if got := directory.Languages(tag); len(got) != 1 || got[0] != tag {
			return fmt.Errorf("%s: not named after a language", name)
		}
		if t.languages[tag] == nil && len(t.languages) == maxLanguages {
			return fmt.Errorf("more than %d languages", maxLanguages)
		}
		text, err := readText(dir, name)
		if err != nil {
			return err
		}
		l, err := parseTexts(text)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all := language{}
		maps.Copy(all, t.languages[tag])
		maps.Copy(all, l)
		if err := all.complete(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		t.languages[tag] = all
	}
	return nil
}

func readText(dir fs.FS, name string) (string, error) {
	if info, err := fs.Stat(dir, name); err != nil {
		return "", err
	} else if info.Size() > maxTextFile {
		return "", fmt.Errorf("%s: more than %d octets", name, maxTextFile)
	}
	b, err := fs.ReadFile(dir, name)
	return string(b), err
}

// in are the texts for somebody with these wishes, the first one first, each as
// preferredLanguage has it, and their tag.
func (t *Texts) in(wishes []string) (string, language) {
	var tags []string
	for _, w := range wishes {
		tags = append(tags, directory.Languages(w)...)
	}
	for _, tag := range tags {
		for {
			if l := t.languages[tag]; l != nil {
				return tag, l
			}
			i := strings.LastIndexByte(tag, '-') // RFC 4647 3.4
			if i < 0 {
				break
			}
			tag = tag[:i]
		}
	}
	return usualLanguage, t.languages[usualLanguage]
}

// complete reports a section that is missing.
func (l language) complete() error {
	for _, k := range kinds {
		if _, ok := l[string(k.kind)]; !ok {
			return fmt.Errorf("section [%s] is missing", k.kind)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(holders)) {
		if _, ok := l[name]; !ok && name != "closing" {
			return fmt.Errorf("section [%s] is missing", name)
		}
	}
	return nil
}

// parseTexts reads a file of texts: sections that begin with their name in
// brackets, those of a kind of notification with "Subject:" and its text.
// Lines that begin with "#" are comments; empty lines around a section's text
// are no part of it.
func parseTexts(text string) (language, error) {
	if len(text) > maxTextFile {
		return nil, fmt.Errorf("more than %d octets", maxTextFile)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("not UTF-8")
	}
	l := language{}
	name, number := "", 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.TrimRight(line, " \t\r\n")
		if err := checkLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			name = line[1 : len(line)-1]
			if _, twice := l[name]; twice || !isSection(name) {
				return nil, fmt.Errorf("line %d: [%s] is no section, or stands twice", number, name)
			}
			l[name] = section{}
		case name == "" && line != "":
			return nil, fmt.Errorf("line %d: text before the first section", number)
		case name != "":
			if err := l.line(name, line); err != nil {
				return nil, fmt.Errorf("line %d: %w", number, err)
			}
		}
	}
	for name, s := range l {
		for len(s.lines) > 0 && s.lines[len(s.lines)-1] == "" {
			s.lines = s.lines[:len(s.lines)-1]
		}
		if l[name] = s; len(s.lines) == 0 || isKind(name) && s.subject == "" || (name == "author" || name == "said") && len(s.lines) > 1 {
			return nil, fmt.Errorf("section [%s]: no text, no subject, or more lines than one", name)
		}
	}
	return l, nil
}

// line adds a line to a section.
func (l language) line(name, line string) error {
	s := l[name]
	subject, is := strings.CutPrefix(line, "Subject:")
	switch {
	case is && isKind(name) && len(s.lines) == 0:
		if s.subject != "" {
			return fmt.Errorf("a second subject")
		}
		s.subject = strings.TrimSpace(subject)
		line = s.subject
	case line == "" && len(s.lines) == 0:
	default:
		s.lines = append(s.lines, line)
	}
	l[name] = s
	return checkHolders(line, holders[name])
}

func checkLine(line string) error {
	if len(line) > maxTextLine {
		return fmt.Errorf("more than %d octets", maxTextLine)
	}
	for _, r := range line {
		if r < ' ' && r != '\t' || r == 0x7f {
			return fmt.Errorf("control character %U", r)
		}
	}
	return nil
}

// checkHolders refuses what stands in braces and is not among names, and any
// of them that stands twice.
func checkHolders(line string, names []string) error {
	for rest := line; ; {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			return nil
		}
		name, after, ok := strings.Cut(rest[i+1:], "}")
		if rest[i] == '}' || !ok || !slices.Contains(names, name) || strings.Contains(after, "{"+name+"}") {
			return fmt.Errorf("%q: only {%s} can stand here, each once", line, strings.Join(names, "}, {"))
		}
		rest = after
	}
}

func isSection(name string) bool {
	_, ok := holders[name]
	return ok || isKind(name)
}

func isKind(name string) bool {
	return slices.ContainsFunc(kinds, func(k kindOf) bool { return string(k.kind) == name })
}

// fill is the section's lines with values for what stands in braces, each
// value once and on one line.
func (s *section) fill(pairs ...string) string {
	for i := 0; i < len(pairs); i += 2 {
		pairs[i], pairs[i+1] = "{"+pairs[i]+"}", oneLine(pairs[i+1], 400)
	}
	return strings.NewReplacer(pairs...).Replace(strings.Join(s.lines, "\r\n")) + "\r\n"
}
