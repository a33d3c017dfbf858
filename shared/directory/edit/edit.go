/*
Package edit changes domains, users and groups of a directory, over LDAP, in the
attributes of a directory.Schema.

	Request -> entry as it would be -> read and checked -> written -> audit log
	fields     (old values, new)       directory/lint      ldap

It writes no entry that could not receive mail: what would come of a change is
read by the reader that relays use and checked by package lint, with who has the
addresses already, and refused when an error is found. Warnings are handed back.
Between the check and the write somebody else may take an address; a relay then
calls it ambiguous, and lint finds it.

A rename, which needs several writes, has all of them or none: when the server
refuses one, those before it are put back. A run that ends in between, because the
tool was killed or the server went away, leaves a note in the entry, and the same
request goes on where it ended. Add and Delete that need several writes are gone
on with by the same request too.

Every change that was tried is a line of the audit log, with old and new values
and without passwords. When the log cannot be written nothing is changed any
more.

Passwords are stored as hashes. A value in braces ("{SSHA512}...") is taken for
one.
*/
package edit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/lint"
)

// Kind is what is changed.
type Kind string

// The kinds.
const (
	Domain Kind = "domain"
	User   Kind = "user"
	Group  Kind = "group"
	Other  Kind = "other" // a container, by LDIF only
	// Mailbox is no entry but what a pair holds of a user, for Record.
	Mailbox Kind = "mailbox"
)

// Op is what is done.
type Op string

// The operations. Put adds an entry, or sets what is given when it is there; a
// domain that was begun and not finished it goes on with, as Add does.
const (
	Add    Op = "add"
	Set    Op = "set"
	Put    Op = "put"
	Delete Op = "delete"
	Rename Op = "rename"
)

// Values are values by field (see Fields), or by "attr:NAME".
type Values map[string][]string

// Request asks for a change.
type Request struct {
	Op   Op
	Kind Kind
	// Name is the domain, the address, or the distinguished name of an entry
	// that exists.
	Name string
	// Values replace all values of a field; no values remove it. More are added
	// and Less taken away.
	Values, More, Less Values
	// Below is the entry to add it below; "" for the domain's ou=people or
	// ou=groups, or the base.
	Below string
	// To is the new name that Rename gives: a domain or an address. NewMailbox
	// takes it that a mailbox is called otherwise, and so another one, then.
	To         string
	NewMailbox bool
}

// Edit is what becomes of one attribute.
type Edit struct {
	Attribute string   `json:"attribute"`
	Old       []string `json:"old,omitempty"`
	New       []string `json:"new,omitempty"`
}

// Result is what a request came to.
type Result struct {
	Op       Op             `json:"op"` // add, set, delete or rename
	Kind     Kind           `json:"kind"`
	DN       string         `json:"dn"`
	NewDN    string         `json:"new_dn,omitempty"` // of Rename
	Changes  []Edit         `json:"changes"`          // none: it was so already
	Warnings []lint.Finding `json:"warnings,omitempty"`
	Also     []*Result      `json:"also,omitempty"` // what had to be changed with it
	Written  bool           `json:"written"`
}

// Refused is the error of a change by which mail would be lost.
type Refused struct{ Findings []lint.Finding }

func (e *Refused) Error() string {
	var b strings.Builder
	for i, f := range e.Findings {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %s", f.Rule, f.Meaning)
		if f.Value != "" {
			fmt.Fprintf(&b, " (%s: %s)", f.Attribute, f.Value)
		}
		if len(f.Others) > 0 {
			fmt.Fprintf(&b, ": %s", strings.Join(f.Others, ", "))
		}
	}
	return b.String()
}

// ErrBadRequest marks a request that cannot be meant.
var ErrBadRequest = errors.New("edit: bad request")

func badf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrBadRequest}, args...)...)
}

// Config is what New needs.
type Config struct {
	Directory *ldap.Directory
	// Pair, Options and Access are those of lint.Config.
	Pair    func(mailHost string) (string, bool)
	Options []string
	Access  func(filter string) error
	Audit   *Audit // nil: none is kept
	// Hash makes a value of userPassword of a password; auth.HashPassword.
	Hash func(password string) string
	// DryRun changes nothing. Later requests see what earlier ones would have
	// done.
	DryRun bool
	// Faulty takes it that an entry has faults already: only those of what is
	// changed refuse the change.
	Faulty bool
}

// Editor changes a directory. It is for one goroutine.
type Editor struct {
	cfg     Config
	d       *ldap.Directory
	s       *directory.Schema
	check   *lint.Checker
	parents map[string]string               // where the entries of a base and kind go
	room    map[string]int                  // users and groups that a domain may still get, by DN and kind
	planned map[string]directory.Attributes // entries of a dry run, by folded name; nil: deleted
	owners  map[string]string               // their names by address
	spelled map[string]string
	broken  error    // of the audit log
	undo    []change // what a request in hand has written, when it is to be taken back; else nil
	unsure  bool     // whether a write of the request in hand was done
}

// New returns an editor.
func New(cfg Config) (*Editor, error) {
	check, err := lint.NewChecker(lint.Config{Directory: cfg.Directory, Pair: cfg.Pair, Options: cfg.Options, Access: cfg.Access})
	if err != nil {
		return nil, err
	}
	if cfg.Hash == nil {
		cfg.Hash = auth.HashPassword
	}
	return &Editor{
		cfg: cfg, d: cfg.Directory, s: cfg.Directory.Schema(), check: check,
		parents: map[string]string{}, room: map[string]int{}, planned: map[string]directory.Attributes{}, owners: map[string]string{}, spelled: spellings(cfg.Directory.Schema()),
	}, nil
}

// Schema is the schema that entries are written by.
func (ed *Editor) Schema() *directory.Schema { return ed.s }

// Directory is the directory that is changed.
func (ed *Editor) Directory() *ldap.Directory { return ed.d }

// DryRun reports whether nothing is changed.
func (ed *Editor) DryRun() bool { return ed.cfg.DryRun }

// Record makes a line of the audit log about something that is not in the
// directory, and returns when it is on disk.
func (ed *Editor) Record(res *Result, err error) error {
	if ed.broken != nil {
		return ed.broken
	}
	if ed.cfg.Audit == nil {
		return nil
	}
	aerr := ed.cfg.Audit.write(res, err)
	if aerr == nil {
		aerr = ed.cfg.Audit.file.Sync()
	}
	if aerr != nil {
		ed.broken = fmt.Errorf("audit log: %w; nothing more is changed", aerr)
	}
	return ed.broken
}

// Write makes a change that was judged elsewhere, with its line of the audit log.
func (ed *Editor) Write(ctx context.Context, res *Result) error {
	if ed.broken != nil || ed.cfg.DryRun {
		return ed.broken
	}
	_, err := ed.do(ctx, res, nil, func() error {
		switch res.Op {
		case Add:
			var raw directory.Attributes
			for _, e := range res.Changes {
				raw.Put(e.Attribute, e.New...)
			}
			return ed.d.Add(ctx, res.DN, raw)
		case Set:
			return ed.d.Modify(ctx, res.DN, modifications(res.Changes))
		case Delete:
			return ed.d.Delete(ctx, res.DN)
		}
		return badf("operation %q", res.Op)
	})
	return err
}

// Do carries a request out.
func (ed *Editor) Do(ctx context.Context, req Request) (*Result, error) {
	if ed.broken != nil {
		return nil, ed.broken
	}
	switch req.Op {
	case Add:
		return ed.add(ctx, req)
	case Set:
		return ed.set(ctx, req)
	case Delete:
		return ed.remove(ctx, req)
	case Rename:
		return ed.rename(ctx, req)
	case Put:
		dn, _, err := ed.Show(ctx, req.Kind, req.Name)
		switch {
		case err == nil && req.Kind == Domain:
			return ed.putDomain(ctx, req, dn)
		case err == nil:
			return ed.set(ctx, req)
		case errors.Is(err, directory.ErrNotFound):
			return ed.add(ctx, req)
		default:
			return nil, err
		}
	}
	return nil, badf("operation %q", req.Op)
}

// set changes an entry.
func (ed *Editor) set(ctx context.Context, req Request) (*Result, error) {
	dn, old, err := ed.Show(ctx, req.Kind, req.Name)
	if err != nil {
		return nil, err
	}
	if req.Kind == Domain && ed.d.InTree(dn) {
		return ed.setNode(ctx, req, dn, old)
	}
	raw := clone(old)
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, err
	}
	return ed.put(ctx, &Result{Op: Set, Kind: req.Kind, DN: dn}, old, raw)
}

// remove deletes an entry.
func (ed *Editor) remove(ctx context.Context, req Request) (*Result, error) {
	dn, old, err := ed.Show(ctx, req.Kind, req.Name)
	if req.Kind == Domain && errors.Is(err, directory.ErrMisconfigured) && ed.d.DCRoot() != "" {
		// The organization may have gone already, and the node with its name not.
		if node, nerr := ed.d.Node(strings.ToLower(strings.TrimSpace(req.Name))); nerr == nil {
			dn, old, err = ed.raw(ctx, node)
		}
	}
	if err != nil {
		return nil, err
	}
	res := &Result{Op: Delete, Kind: req.Kind, DN: dn, Changes: diff(old, nil)}
	var containers []string
	if req.Kind == Domain {
		if err := ed.properName(ctx, req.Name, dn, old); err != nil {
			return nil, err
		}
		if ed.d.InTree(dn) {
			return ed.removeNode(ctx, dn, old)
		}
		if containers, err = ed.empty(ctx, dn); err != nil {
			return nil, err
		}
	}
	return ed.do(ctx, res, nil, func() error {
		for _, c := range containers {
			if err := ed.d.Delete(ctx, c); err != nil {
				return err
			}
		}
		return ed.d.Delete(ctx, dn)
	})
}

// maxContainers is how many empty containers a domain may have to be deleted.
const maxContainers = 100

// empty returns the containers below a domain, and an error when there is more.
func (ed *Editor) empty(ctx context.Context, dn string) (containers []string, err error) {
	top, err := ldap.FoldName(dn)
	if err != nil {
		return nil, err
	}
	err = ed.d.Scan(ctx, dn, ldap.Everything, []string{"objectClass"}, func(child string, raw directory.Attributes) error {
		fold, err := ldap.FoldName(child)
		if err != nil || fold == top {
			return err
		}
		if planned, ok := ed.planned[fold]; ok && planned == nil {
			return nil // deleted by this dry run
		}
		if !hasClass(raw, "organizationalUnit") || len(containers) >= maxContainers {
			return fmt.Errorf("%s is not empty: %s is below it; delete its users and groups first, or set its status to deleted", dn, child)
		}
		containers = append(containers, child)
		return nil
	})
	// The innermost first.
	slices.SortStableFunc(containers, func(a, b string) int { return len(b) - len(a) })
	return containers, err
}

// put checks what an entry would be and writes it.
func (ed *Editor) put(ctx context.Context, res *Result, old, raw directory.Attributes) (*Result, error) {
	if err := ed.judge(ctx, res, old, raw); err != nil || res.Op == Set && len(res.Changes) == 0 {
		return refusal(res, err)
	}
	return ed.write(ctx, res, raw)
}

// write makes a change that was judged.
func (ed *Editor) write(ctx context.Context, res *Result, raw directory.Attributes) (*Result, error) {
	return ed.do(ctx, res, raw, func() error {
		if res.Op == Add {
			return ed.d.Add(ctx, res.DN, raw)
		}
		return ed.d.Modify(ctx, res.DN, modifications(res.Changes))
	})
}

func modifications(changes []Edit) (mods []ldap.Modification) {
	for _, c := range changes {
		mods = append(mods, ldap.Modification{Attribute: c.Attribute, Values: c.New})
	}
	return mods
}

// do writes, unless it is a dry run, and keeps the log.
func (ed *Editor) do(ctx context.Context, res *Result, raw directory.Attributes, write func() error) (*Result, error) {
	if ed.cfg.DryRun {
		hide(ed.s, res.Changes)
		if res.NewDN == "" {
			return res, ed.plan(ctx, res.DN, raw)
		}
		return res, errors.Join(ed.plan(ctx, res.DN, nil), ed.plan(ctx, res.NewDN, raw))
	}
	full := slices.Clone(res.Changes)
	err := write()
	if err == nil {
		ed.wrote(res, full)
	} else if ldap.Unanswered(err) {
		ed.unsure = true
	}
	for _, dn := range []string{res.DN, res.NewDN} {
		ed.check.Ask(dn)
	}
	if res.Kind == Domain {
		ed.check.Forget()
		clear(ed.parents)
		clear(ed.room)
	}
	res.Written = err == nil
	hide(ed.s, res.Changes)
	if ed.cfg.Audit != nil {
		if aerr := ed.cfg.Audit.write(res, err); aerr != nil {
			ed.broken = fmt.Errorf("audit log: %w; nothing more is changed", aerr)
			return res, errors.Join(err, ed.broken)
		}
	}
	return res, err
}
