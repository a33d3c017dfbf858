package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// maxReported bounds the rows that a report names.
const maxReported = 10_000

// withDirectoryEditor is withEditor for reading, with the schema.
func (a *app) withDirectoryEditor(d *directoryFlags, f func(ctx context.Context, ed *edit.Editor, schema *directory.Schema) error) func(*cobra.Command, []string) error {
	return a.withDirectory(d, func(ctx context.Context, dir *ldap.Directory, _ []string) error {
		ed, err := edit.New(edit.Config{Directory: dir})
		if err != nil {
			return err
		}
		return f(ctx, ed, dir.Schema())
	})
}

// imported is what came of a file.
type imported struct {
	Rows      int           `json:"rows"`
	Added     int           `json:"added"`
	Changed   int           `json:"changed"`
	Deleted   int           `json:"deleted"`
	Unchanged int           `json:"unchanged"`
	Failed    int           `json:"failed"`
	DryRun    bool          `json:"dry_run,omitempty"`
	Reported  []importedRow `json:"reported"` // rows that failed and, in a dry run, all that would change something
	Cut       bool          `json:"cut,omitempty"`
}

type importedRow struct {
	Line    int         `json:"line"`
	Name    string      `json:"name"`
	Op      edit.Op     `json:"op,omitempty"`
	DN      string      `json:"dn,omitempty"`
	Changes []edit.Edit `json:"changes,omitempty"`
	Error   string      `json:"error,omitempty"`
}

func (a *app) directoryImportCmd(d *directoryFlags) *cobra.Command {
	var format, kind string
	var update, stop bool
	c := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Add and change many entries from CSV or LDIF",
		Long: `import reads a table (CSV) or LDIF. Each row is checked and written like a single
change; a row that is refused is reported and the next one is tried. With --update
entries that exist are changed, so that an import can be repeated; a domain whose
entries a run has begun to make gets the rest of them.

The first line of a table names its columns: address (or domain), optionally kind,
and fields: those of the flags of "directory user add" and so on, password, and
attr:NAME for any other attribute. Several values are separated by semicolons; an
empty cell says nothing, and - removes what there is. Passwords in a file are
hashed; a hash is kept. Records of LDIF may add, modify, delete and rename entries
(modrdn), but not so that a mailbox would be called otherwise.

The exit status is 1 when a row failed.`,
		Example: `  postern directory import --dir ~/mail people.csv --dry-run
  postern directory import --dir ~/mail people.csv --update --output json
  postern directory import --url ldap://ldap1 --start-tls --base o=isp --bind-dn cn=admin,o=isp \
    --bind-password-file pw --audit /var/log/directory.log tree.ldif`,
		Args: cobra.ExactArgs(1),
	}
	d.writeFlags(c)
	f := c.Flags()
	f.StringVar(&format, "format", "", "form of the file: csv or ldif (default: by its name)")
	f.StringVar(&kind, "kind", "user", "what the rows of a table without a column kind are: domain, user or group")
	f.BoolVar(&update, "update", false, "change entries that exist")
	f.BoolVar(&stop, "stop", false, "stop at the first row that fails")
	c.RunE = a.withEditor(d, true, func(ctx context.Context, ed *edit.Editor, args []string) error {
		read, err := source(args[0], &format, edit.Kind(kind), update)
		if err != nil {
			return err
		}
		in, total, err := a.input(args[0], read)
		if err != nil {
			return err
		}
		defer in.Close()
		out := &imported{Reported: []importedRow{}, DryRun: d.dryRun}
		bar := a.progress("rows", total)
		err = read(in, func(r edit.Row) error {
			defer bar.step()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			res, err := r.Do(ctx, ed)
			out.count(r, res, err)
			if err != nil && (stop || errors.Is(err, directory.ErrUnavailable) || res != nil && res.Written) {
				return fmt.Errorf("line %d: %w", r.Line, err)
			}
			return nil
		})
		bar.end()
		if perr := a.emit(out, func(w io.Writer) error { return printImported(w, a, out) }); perr != nil {
			return perr
		}
		if err == nil && out.Failed > 0 {
			err = fmt.Errorf("%d of %d rows not done", out.Failed, out.Rows)
		}
		return err
	})
	return c
}

type reading = func(r io.Reader, take func(edit.Row) error) error

// source is how a file is read.
func source(name string, format *string, kind edit.Kind, update bool) (reading, error) {
	set(format, strings.TrimPrefix(strings.ToLower(filepath.Ext(name)), "."))
	switch *format {
	case "csv":
		return func(r io.Reader, take func(edit.Row) error) error { return edit.CSV(r, kind, update, take) }, nil
	case "ldif":
		return func(r io.Reader, take func(edit.Row) error) error { return edit.LDIF(r, update, take) }, nil
	}
	return nil, usagef("--format %q: want csv or ldif", *format)
}

// input opens a file and counts its rows, which finds most of its faults before
// anything is changed. Those of standard input are not counted.
func (a *app) input(name string, read reading) (io.ReadCloser, int, error) {
	if name == "-" {
		return io.NopCloser(bufio.NewReader(a.in)), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, couldNotRun{err}
	}
	n := 0
	err = read(f, func(edit.Row) error { n++; return nil })
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, 0, couldNotRun{fmt.Errorf("%s: %w; nothing was changed", name, err)}
	}
	return f, n, nil
}

func (out *imported) count(r edit.Row, res *edit.Result, err error) {
	out.Rows++
	row := importedRow{Line: r.Line, Name: r.Name}
	switch {
	case err != nil:
		out.Failed++
		row.Error = err.Error()
	case len(res.Changes)+len(res.Also) == 0:
		out.Unchanged++
		return
	default:
		switch res.Op {
		case edit.Add:
			out.Added++
		case edit.Delete:
			out.Deleted++
		default:
			out.Changed++
		}
		if !out.DryRun {
			return
		}
		row.Op, row.DN, row.Changes = res.Op, res.DN, res.Changes
	}
	if len(out.Reported) >= maxReported {
		out.Cut = true
		return
	}
	out.Reported = append(out.Reported, row)
}

func printImported(w io.Writer, a *app, out *imported) error {
	for _, r := range out.Reported {
		if r.Error != "" {
			a.warn("line %d: %s: %s", r.Line, r.Name, r.Error)
			continue
		}
		fmt.Fprintf(w, "line %d: would be %s: %s\n", r.Line, done[r.Op], table.Clean(r.DN))
		for _, c := range r.Changes {
			fmt.Fprintf(w, "  %s: %s -> %s\n", table.Clean(c.Attribute), table.Clean(dash(strings.Join(c.Old, ", "))), table.Clean(dash(strings.Join(c.New, ", "))))
		}
	}
	if out.Cut {
		a.warn("only the first %d rows are reported", maxReported)
	}
	would := ""
	if out.DryRun {
		would = "dry run, would be: "
	}
	_, err := fmt.Fprintf(w, "%d rows: %s%d added, %d changed, %d deleted, %d as they were, %d failed\n",
		out.Rows, would, out.Added, out.Changed, out.Deleted, out.Unchanged, out.Failed)
	return err
}

func (a *app) directoryExportCmd(d *directoryFlags) *cobra.Command {
	var format, kind, domain, file string
	var secrets bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Write domains, users and groups as CSV or LDIF",
		Long: `export writes entries in the form that import reads: LDIF with all attributes, or
a table with the fields of one kind. Passwords are left out unless --secrets says
so.`,
		Example: `  postern directory export --dir ~/mail --domain example.org > example.ldif
  postern directory export --dir ~/mail --format csv --kind user --file people.csv`,
		Args: cobra.NoArgs,
		RunE: a.withDirectoryEditor(d, func(ctx context.Context, ed *edit.Editor, _ *directory.Schema) (err error) {
			out, end := a.out, func(err error) error { return err }
			if file != "" {
				if out, end, err = newFile(file); err != nil {
					return err
				}
			}
			w := bufio.NewWriterSize(out, 64<<10)
			x := edit.Export{Kind: edit.Kind(kind), Domain: domain, Secrets: secrets}
			n := 0
			switch format {
			case "ldif":
				n, err = ed.WriteLDIF(ctx, w, x)
			case "csv":
				if kind == "" {
					x.Kind = edit.User
				}
				n, err = ed.WriteCSV(ctx, w, x)
			default:
				err = usagef("--format %q: want csv or ldif", format)
			}
			if err = end(errors.Join(err, w.Flush())); err != nil || file == "" {
				return err
			}
			return a.emit(map[string]any{"file": file, "entries": n}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d entries in %s\n", n, file)
				return err
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&format, "format", "ldif", "form of the output: csv or ldif")
	f.StringVar(&kind, "kind", "", "only these: domain, user or group (default: all; users in CSV)")
	f.StringVar(&domain, "domain", "", "only this domain")
	f.StringVar(&file, "file", "", "file to write (default: standard output)")
	f.BoolVar(&secrets, "secrets", false, "include passwords, as they are stored")
	return c
}

// newFile begins a file that replaces name when end is called without an error.
func newFile(name string) (io.Writer, func(error) error, error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return nil, nil, couldNotRun{err}
	}
	return tmp, func(err error) error {
		if err = errors.Join(err, tmp.Close()); err == nil {
			err = os.Rename(tmp.Name(), name)
		}
		if err != nil {
			return errors.Join(err, os.Remove(tmp.Name()))
		}
		return nil
	}, nil
}
