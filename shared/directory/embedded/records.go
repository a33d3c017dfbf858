package embedded

import (
	"errors"
	"io"
	"iter"

	"github.com/postern-mail/postern/shared/directory"
)

// Record is one record of LDIF (RFC 2849).
type Record struct {
	Line int // where it begins
	DN   string
	// Op is "add" for entries and additions, "delete", "modify" or "rename".
	Op         string
	Attributes directory.Attributes // of an addition, spelled as in the file
	Changes    []Changed            // of a modification

	// Of a rename: the new first part of the name, whether the old value goes,
	// and the new place, "" for the old one.
	NewRDN      string
	DeleteOld   bool
	NewSuperior string
}

// Changed is one part of a modification: "add", "delete" or "replace".
type Changed struct {
	Op, Attribute string
	Values        []string
}

var errRecord = errors.New("counters are not changed by LDIF here")

// Records reads LDIF record by record. Its errors are LDIFErrors; the first one
// is the last, because nobody can tell where the next record begins.
func Records(r io.Reader) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		l := newLDIFReader(r)
		for {
			rec, err := l.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			out := &Record{Line: rec.line, DN: rec.dn}
			switch rec.op {
			case opAdd:
				out.Op = "add"
				for _, a := range rec.attrs {
					out.Attributes = append(out.Attributes, directory.Attribute{Name: a.name, Values: a.values})
				}
			case opDelete:
				out.Op = "delete"
			case opModify:
				out.Op = "modify"
				for _, c := range rec.changes {
					if c.kind > 2 {
						err = &LDIFError{rec.line, errRecord}
						break
					}
					out.Changes = append(out.Changes, Changed{[...]string{"add", "delete", "replace"}[c.kind], c.name, c.values})
				}
			default:
				out.Op, out.NewRDN, out.DeleteOld, out.NewSuperior = "rename", rec.newRDN, rec.deleteOld, rec.newSuperior
			}
			if err != nil {
				out = nil
			}
			if !yield(out, err) {
				return
			}
		}
	}
}

// AppendChange appends a change as a record of LDIF: "add" with the attributes of
// an entry, "modify" with attributes that replace what there is, or "delete".
func AppendChange(b []byte, dn, op string, attrs directory.Attributes) []byte {
	b = appendLine(b, "dn", dn)
	b = appendLine(b, "changetype", op)
	for _, a := range attrs {
		if op == "modify" {
			b = appendLine(b, "replace", a.Name)
		}
		for _, v := range a.Values {
			if op != "delete" {
				b = appendLine(b, a.Name, v)
			}
		}
		if op == "modify" {
			b = append(b, "-\n"...)
		}
	}
	return append(b, '\n')
}

// AppendRecord appends an entry as a record of LDIF.
func AppendRecord(b []byte, dn string, attrs directory.Attributes) []byte {
	b = appendLine(b, "dn", dn)
	for _, a := range attrs {
		for _, v := range a.Values {
			b = appendLine(b, a.Name, v)
		}
	}
	return append(b, '\n')
}
