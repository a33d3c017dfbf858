package dev

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// maxLDIF bounds a tree that is loaded.
const maxLDIF = 256 << 20

func readLDIF(name string) ([]byte, error) { return readFile(name, maxLDIF) }

// loads reports what keeps our directory from loading text, before anything is
// made of it.
func loads(text []byte) error {
	s, err := embedded.New(embedded.Config{LDIF: text})
	if err != nil {
		return err
	}
	return s.Close()
}

// tree is the LDIF that our own directory begins with.
func tree(o *Options, domain string) []byte {
	text := fixture.Tree(domain, o.Users, o.Pairs)
	if o.PairPrefix != "pair" {
		text = bytes.ReplaceAll(text, []byte("\nmailHost: pair"), []byte("\nmailHost: "+o.PairPrefix))
	}
	return text
}

// people finds who can log in, the lists and the domains: in text when it is
// given, otherwise in the tree that is made up.
func (l *layout) people(o *Options, text []byte) error {
	domain := o.Domain
	switch {
	case o.Directory != "":
		l.Base, l.Domains = o.Base, []string{domain}
		for i := range o.Users {
			uid := fixture.UID(i + 1)
			l.Users = append(l.Users, clusterfile.User{
				Login: uid, Password: fixture.Password, Address: uid + "@" + domain,
				Pair: fmt.Sprintf("%s%d", o.PairPrefix, i%o.Pairs+1),
			})
		}
		return nil
	case text == nil:
		text, l.Base = tree(o, domain), fixture.Root
	}
	entries := parseLDIF(text)
	if len(entries) == 0 {
		return fmt.Errorf("%s: no entry in it", o.LDIF)
	}
	if o.LDIF != "" {
		if l.Base = o.Base; l.Base == "" {
			l.Base = entries[0].get("dn")
		}
		if !o.Given("domain") {
			domain = ""
		}
	}
	for _, e := range entries {
		for _, d := range append(slices.Clone(e.all("sunpreferreddomain")), e.all("associateddomain")...) {
			if d = strings.ToLower(d); !slices.Contains(l.Domains, d) {
				l.Domains = append(l.Domains, d)
			}
		}
	}
	if domain == "" && len(l.Domains) > 0 {
		domain = l.Domains[0]
	}
	if domain == "" {
		return fmt.Errorf("%s: no entry has sunPreferredDomain; name the domain with --domain", o.LDIF)
	}
	l.Domains = slices.DeleteFunc(l.Domains, func(d string) bool { return d == domain })
	l.Domains = slices.Insert(l.Domains, 0, domain)
	l.RootDN, l.RootPass = "cn=admin,"+l.Base, newID()
	for _, e := range entries {
		l.person(e, domain)
	}
	return nil
}

// person notes e when it is somebody with a mailbox and a readable password, or
// a list.
func (l *layout) person(e ldifEntry, domain string) {
	mail := e.get("mail")
	local, at, ok := strings.Cut(mail, "@")
	if !ok || local == "" {
		return
	}
	members := len(e.all("uniquemember")) + len(e.all("member")) + len(e.all("mgrprfc822mailmember")) + len(e.all("rfc822mailmember"))
	uid, password := e.get("uid"), e.get("userpassword")
	switch {
	case members > 0:
		l.Lists = append(l.Lists, clusterfile.List{Address: mail, Members: members})
	case uid == "" || password == "" || strings.HasPrefix(password, "{"):
	case e.get("maildeliveryoption") != "" && !slices.Contains(e.all("maildeliveryoption"), "mailbox"):
	default:
		login := uid
		if !strings.EqualFold(at, domain) {
			login = mail
		}
		pair, _, _ := strings.Cut(strings.ToLower(e.get("mailhost")), ".")
		l.Users = append(l.Users, clusterfile.User{Login: login, Password: password, Address: mail, Pair: pair})
	}
}

// known leaves out the people whose mailHost is none of our pairs, and says how
// many they are.
func (l *layout) known() (strangers int) {
	pairs := l.pairNames()
	n := len(l.Users)
	l.Users = slices.DeleteFunc(l.Users, func(u clusterfile.User) bool { return !slices.Contains(pairs, u.Pair) })
	return n - len(l.Users)
}

// ldifEntry is a record of LDIF: values by attribute name in lower case.
type ldifEntry map[string][]string

func (e ldifEntry) all(name string) []string { return e[name] }

func (e ldifEntry) get(name string) string {
	if v := e[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// parseLDIF reads the entries that people need to be told of. The directory
// server reads the same text and reports its faults; here, what cannot be read
// is left out.
func parseLDIF(text []byte) (entries []ldifEntry) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = bytes.ReplaceAll(text, []byte("\n "), nil) // RFC 2849 note 2: folded lines
	for record := range bytes.SplitSeq(text, []byte("\n\n")) {
		e := ldifEntry{}
		for line := range bytes.Lines(record) {
			line = bytes.TrimRight(line, "\n")
			name, value, ok := bytes.Cut(line, []byte(":"))
			if !ok || bytes.HasPrefix(line, []byte("#")) {
				continue
			}
			v, err := ldifValue(value)
			if err != nil {
				continue
			}
			key, _, _ := strings.Cut(strings.ToLower(string(name)), ";")
			e[key] = append(e[key], v)
		}
		if e.get("dn") != "" {
			entries = append(entries, e)
		}
	}
	return entries
}

func ldifValue(b []byte) (string, error) {
	switch {
	case bytes.HasPrefix(b, []byte(":")):
		v, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b[1:])))
		return string(v), err
	case bytes.HasPrefix(b, []byte("<")):
		return "", errors.New("value elsewhere")
	}
	return strings.TrimSpace(string(b)), nil
}
