package ldap_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// helpers are the files where filters and names may be put together, and the
// packages that make trees for tests out of their own names.
var helpers = []string{"shared/directory/ldap/escape.go", "shared/directory/fixture/", "shared/directory/dirtest/"}

const naming = `(uid|cn|ou|o|dc|mail|sn)`

var (
	// A value is formatted into a filter or a name.
	formatted = regexp.MustCompile(`\([A-Za-z][\w;.-]*[~<>]?=[^()]*%[-+# 0-9.*]*[svqxXw]|(^|[,+])` + naming + `=%[-+# 0-9.*]*[svqxXw]`)
	// A filter or a name stops where a value would follow.
	open = regexp.MustCompile(`\([A-Za-z][\w;.-]*(:[\w.-]*)*[~<>:]?=[^()]*$|\([&|!]$|(^|[,+])` + naming + `=$`)
)

// built returns what in a file puts filters or names together.
func built(f *ast.File, fset *token.FileSet) (found []string) {
	report := func(lit *ast.BasicLit, s string) {
		found = append(found, fset.Position(lit.Pos()).String()+": "+strconv.Quote(s))
	}
	text := func(n ast.Node) (*ast.BasicLit, string) {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return nil, ""
		}
		s, err := strconv.Unquote(lit.Value)
		if err != nil {
			return nil, ""
		}
		return lit, s
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if lit, s := text(n); lit != nil && formatted.MatchString(s) {
			report(lit, s)
		}
		var parts []ast.Expr
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op == token.ADD {
				parts = []ast.Expr{n.X, n.Y}
			}
		case *ast.CallExpr:
			parts = n.Args
		}
		for _, p := range parts {
			if lit, s := text(p); lit != nil && open.MatchString(s) {
				report(lit, s)
			}
		}
		return true
	})
	return found
}

// TestSource reads the module: filters and names are put together in one place,
// where every value is escaped.
func TestSource(t *testing.T) {
	root := os.DirFS("../../..")
	files := 0
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir(), path.Ext(p) != ".go", strings.HasSuffix(p, "_test.go"):
			return nil
		case slices.ContainsFunc(helpers, func(h string) bool { return strings.HasPrefix(p, h) }):
			return nil
		}
		src, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, src, 0)
		if err != nil {
			return nil // the compiler says it better
		}
		files++
		for _, at := range built(f, fset) {
			t.Errorf("%s: put filters and names together in shared/directory/ldap/escape.go", at)
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Fatalf("%d files read: %v", files, err)
	}
}

// TestSourceSees: the reader above sees what it is there for.
func TestSourceSees(t *testing.T) {
	for code, want := range map[string]int{
		`fmt.Sprintf("(uid=%s)", u)`:                    1,
		`fmt.Sprintf("(&(objectClass=x)(mail=%s))", u)`: 1,
		`fmt.Sprintf("(|(mail=*%s*))", u)`:              1,
		`"(uid=" + u + ")"`:                             1,
		`"(&(a=b)(uid>=" + u`:                           1,
		`b.WriteString("(cn=")`:                         1,
		`strings.Join([]string{a, b}, "(uid=")`:         1,
		`"(|" + list + ")"`:                             1,
		`fmt.Sprintf("uid=%s,ou=people,%s", u, base)`:   1,
		`"uid=" + u + "," + base`:                       1,
		`"ou=people,dc=" + u`:                           1,
		`fmt.Appendf(nil, "cn=%q", u)`:                  1,
		`search("(objectClass=*)")`:                     0,
		`search("(&(objectClass=a)(mail=b))" + x)`:      0,
		`fmt.Sprintf("status=%s", s)`:                   0,
		`fmt.Errorf("filter %q: %w", f, err)`:           0,
		`"ou=people," + base`:                           0,
		`log("took (n=%d)", n)`:                         0,
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", "package x\nvar _ = "+code, 0)
		if err != nil {
			t.Fatalf("%s: %v", code, err)
		}
		if got := built(f, fset); len(got) != want {
			t.Errorf("%s: %q, want %d", code, got, want)
		}
	}
}
