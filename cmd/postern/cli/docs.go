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

// Manual writes the whole manual as one page, in the Markdown of go-md2man.
func Manual(w io.Writer, root *cobra.Command) error {
	var b strings.Builder
	const title = `postern 1 "" Postern "Postern manual"`
	b.WriteString(title + "\n" + strings.Repeat("=", len(title)) + "\n\n# NAME\n\npostern - " + lower(root.Short) + "\n\n# SYNOPSIS\n\n")
	for _, c := range leaves(root) {
		b.WriteString("**" + c.CommandPath() + "**")
		if args := strings.TrimPrefix(strings.TrimSuffix(c.UseLine(), " [flags]"), c.CommandPath()); args != "" {
			b.WriteString(" *" + strings.TrimSpace(args) + "*")
		}
		b.WriteString(" [*option* ...]\n\n")
	}
	b.WriteString("**postern completion** *bash|fish|powershell|zsh*\n\n# DESCRIPTION\n\n" + block(root.Long) + "\n\n# OPTIONS\n\nOptions of every command:\n\n")
	flagList(&b, root.PersistentFlags())
	b.WriteString("# COMMANDS\n\n")
	for _, c := range root.Commands() {
		command(&b, c)
	}
	b.WriteString(manualTail)
	_, err := io.WriteString(w, b.String())
	return err
}

const manualTail = `# EXIT STATUS

**0**
: What was asked for is done.

**1**
: It failed, or was done in part only; a message says what.

**2**
: The command was given wrongly, or could not run: no such cluster, no node that
  answers.

A node that does not answer makes neither **postern status** nor **postern pair
status** fail as long as another one does; it is shown as unreachable or down.
**postern status --check** is for monitoring.

# FILES

The folder of a development cluster:

**cluster.json**
: Where everything is, from when it is ready. The pid of a node that is down is 0.

**dev.json**
: What the cluster was made with: names, addresses, ids, people.

*NODE*/*NODE*.yaml, *NODE*/log
: Configuration and log of a node; its state is beside them.

**ca**, **admin**, **gossip.key**
: CA of the cluster, a certificate of role admin, key of the membership protocol.

**directory**
: The LDAP tree with its changes.

# SEE ALSO

**postern-relay**(8), **postern-backend**(8), **postern-witness**(8)
`

func command(b *strings.Builder, c *cobra.Command) {
	if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
		return
	}
	fmt.Fprintf(b, "## %s\n\n", c.CommandPath())
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	b.WriteString(block(text) + "\n\n")
	if c.Example != "" {
		b.WriteString("Example:\n\n" + block(c.Example) + "\n\n")
	}
	flagList(b, c.NonInheritedFlags())
	for _, sub := range c.Commands() {
		command(b, sub)
	}
}

// block makes lines that are set in by two spaces a block of their own.
func block(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, "  ") {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "\n")
}

func flagList(b *strings.Builder, fs *pflag.FlagSet) {
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		if f.Shorthand != "" {
			fmt.Fprintf(b, "**-%s**, ", f.Shorthand)
		}
		kind, usage := pflag.UnquoteUsage(f)
		b.WriteString("**--" + f.Name + "**")
		if kind != "" {
			b.WriteString(" *" + kind + "*")
		}
		fmt.Fprintf(b, "\n: %s%s.", strings.ToUpper(usage[:1]), usage[1:])
		switch f.DefValue {
		case "", "[]", "false", "0s":
		default:
			fmt.Fprintf(b, " Default: %s.", f.DefValue)
		}
		b.WriteString("\n\n")
	})
}

// leaves are the commands that do something.
func leaves(c *cobra.Command) (out []*cobra.Command) {
	for _, sub := range c.Commands() {
		switch {
		case sub.Hidden || sub.Name() == "help" || sub.Name() == "completion":
		case sub.HasSubCommands():
			out = append(out, leaves(sub)...)
		default:
			out = append(out, sub)
		}
	}
	return out
}

func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }
