package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"

	"github.com/postern-mail/postern/cmd/internal/version"
)

func (a *app) docsCmd() *cobra.Command {
	var manual bool
	c := &cobra.Command{
		Use:    "docs DIR",
		Short:  "Write the manual pages",
		Hidden: true,
		Long:   `docs writes a manual page for each command into DIR, or with --manual the whole manual in Markdown to standard output.`,
		Args:   cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			root.DisableAutoGenTag = true
			if manual {
				return Manual(a.out, root)
			}
			if len(args) != 1 {
				return usagef("docs: name the folder")
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			date, err := buildDate()
			if err != nil {
				return err
			}
			head := &doc.GenManHeader{Section: "1", Source: "Postern " + version.Release, Manual: "Postern", Date: &date}
			if err := doc.GenManTree(root, head, args[0]); err != nil {
				return err
			}
			pages, err := filepath.Glob(filepath.Join(args[0], "*.1"))
			if err != nil {
				return err
			}
			return a.emit(pages, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d pages\n", len(pages))
				return err
			})
		},
	}
	c.Flags().BoolVar(&manual, "manual", false, "write the manual in Markdown to standard output")
	return c
}

// buildDate is the date of the pages: SOURCE_DATE_EPOCH, so that they can be
// made again octet for octet, or the beginning of time.
func buildDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	var n int64
	if _, err := fmt.Sscan(text, &n); err != nil {
		return time.Time{}, usagef("SOURCE_DATE_EPOCH %q is no number of seconds", text)
	}
	return time.Unix(n, 0).UTC(), nil
}

// Manual writes the whole manual as one page.
func Manual(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	b.WriteString("# postern(1)\n\nThis page is made from the program by `postern docs --manual`.\n\n## Name\n\npostern - " +
		lower(root.Short) + "\n\n## Synopsis\n\n")
	for _, c := range leaves(root) {
		fmt.Fprintf(&b, "    %s\n", strings.TrimSuffix(c.UseLine(), " [flags]"))
	}
	b.WriteString("\n## Description\n\n" + root.Long + "\n\n")
	flagTable(&b, "Options of every command:", root.PersistentFlags())
	b.WriteString(manualTail)
	b.WriteString("## Commands\n\n")
	for _, c := range root.Commands() {
		command(&b, c, 3)
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

const manualTail = `## Exit status

| status | meaning |
|---|---|
| 0 | what was asked for is done |
| 1 | it failed, or was done in part only; a message says what |
| 2 | the command was given wrongly, or could not run: no such cluster, no node that answers |

A node that does not answer does not make ` + "`status`" + ` or ` + "`pair status`" + ` fail as long as
another one does; it is shown as ` + "`unreachable`" + ` or ` + "`down`" + `. ` + "`status --check`" + ` is for
monitoring.

## Files

A development cluster keeps in its folder: ` + "`cluster.json`" + `, where everything is, while
it runs; ` + "`dev.json`" + `, what it was made with; ` + "`NODE/NODE.yaml`" + `, ` + "`NODE/log`" + ` and the state
of each node; ` + "`ca`" + `, ` + "`admin`" + ` and ` + "`gossip.key`" + `, its certificates and keys; ` + "`directory`" + `, the
changes to its LDAP tree.

`

func command(b *strings.Builder, c *cobra.Command, level int) {
	if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
		return
	}
	fmt.Fprintf(b, "%s %s\n\n", strings.Repeat("#", level), c.CommandPath())
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	b.WriteString(text + "\n\n")
	if c.Example != "" {
		fmt.Fprintf(b, "```\n%s\n```\n\n", strings.TrimRight(unindent(c.Example), "\n"))
	}
	flagTable(b, "", c.NonInheritedFlags())
	for _, sub := range c.Commands() {
		command(b, sub, min(level+1, 6))
	}
}

func flagTable(b *strings.Builder, title string, fs *pflag.FlagSet) {
	var rows []string
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		def := f.DefValue
		if def == "" || def == "[]" || def == "false" || def == "0s" {
			def = "-"
		}
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |", name, def, f.Usage))
	})
	if len(rows) == 0 {
		return
	}
	if title != "" {
		b.WriteString(title + "\n\n")
	}
	b.WriteString("| option | default | |\n|---|---|---|\n" + strings.Join(rows, "\n") + "\n\n")
}

// leaves are the commands that do something.
func leaves(c *cobra.Command) (out []*cobra.Command) {
	for _, sub := range c.Commands() {
		switch {
		case sub.Hidden || sub.Name() == "help":
		case sub.HasSubCommands():
			out = append(out, leaves(sub)...)
		default:
			out = append(out, sub)
		}
	}
	return out
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}

func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }
