package config

import (
	"fmt"
	"io"
	"strings"
)

// Reference writes the reference page in Markdown: a table for each section.
func Reference(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Options

One YAML file for each node (` + "`--config FILE`" + `), then the environment, then flags; the later wins.
The option ` + "`smtp.max_size`" + ` is ` + "`max_size`" + ` below ` + "`smtp:`" + ` in the file, ` + "`POSTERN_SMTP_MAX_SIZE`" + ` in the environment and
` + "`--smtp.max_size`" + ` as a flag. Lists are YAML sequences, or words with commas between them. Sizes are octets or have
KB, MB, GB or TB; durations have ms, s, m, h or d. Options marked "reload" follow SIGHUP and ` + "`postern reload`" + `
without the end of a session, which goes on with what it began with; the others need a restart, for the reason given, those of an object for
that of its list. A reload is taken
whole, with the files that options name, or not at all. Certificates are read again when their files change. ` + "`postern config show`" + ` says where each
value of a node comes from, ` + "`postern config diff`" + ` what another file would change and whether a reload is enough.
`)
	section := "-"
	for i := range Table {
		o := &Table[i]
		name, _, nested := strings.Cut(o.Name, ".")
		name = strings.TrimSuffix(name, "[]")
		if !nested && o.Type != Objects {
			name = ""
		}
		if name != section {
			section = name
			title := section
			if title == "" {
				title = "The node"
			}
			fmt.Fprintf(&b, "\n## %s\n\n| option | type | default | tier | change | |\n|---|---|---|---|---|---|\n", title)
		}
		change := "reload"
		if !o.Reload {
			change = "restart"
			if o.Fixed != "" {
				change += ": " + o.Fixed
			}
		}
		def := "`" + o.Default + "`"
		switch {
		case o.Need:
			def = "must be given"
		case o.Default == "":
			def = "none"
		}
		typ := string(o.Type)
		if o.Unit != "" {
			typ += ", " + o.Unit
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s%s |\n", o.Name, typ, def, o.Tier, change, o.Help, o.limits())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (o *Option) limits() string {
	switch {
	case o.Values != nil:
		return " Values: " + strings.Join(o.Values, ", ") + "."
	case o.Min > 0 && o.Max > 0:
		return " From " + o.bound(o.Min) + " to " + o.bound(o.Max) + "."
	case o.Min > 0:
		return " At least " + o.bound(o.Min) + "."
	case o.Max > 0:
		return " At most " + o.bound(o.Max) + "."
	}
	return ""
}
