package embedded_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// onSocket serves a tree on a Unix socket and returns its URL.
func onSocket(t *testing.T, cfg embedded.Config) string {
	t.Helper()
	s, err := embedded.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "em") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	return "ldapi://" + strings.ReplaceAll(filepath.Join(dir, "s"), "/", "%2F")
}

func modify(c *ldap.Conn, dn, attr string, values ...string) uint16 {
	req := ldap.NewModifyRequest(dn, nil)
	req.Replace(attr, values)
	return code(c.Modify(req))
}

func add(c *ldap.Conn, dn string) uint16 {
	req := ldap.NewAddRequest(dn, nil)
	req.Attribute("objectClass", []string{"organizationalUnit"})
	return code(c.Add(req))
}

const denied = ldap.LDAPResultInsufficientAccessRights

// TestRules: administrators of a subtree, owners, and everybody else.
func TestRules(t *testing.T) {
	other := fixture.Base("y.test")
	tree := append(fixture.Tree("x.test", 5, 1), []byte(strings.SplitN(string(fixture.Tree("y.test", 2, 1)), "\n\n", 2)[1])...)
	s := dirtest.Embedded(t, tree, func(c *embedded.Config) {
		c.Rules = []embedded.Rule{
			{Attributes: []string{"userPassword"}, Who: "self", Access: embedded.WriteOnly},
			{Attributes: []string{"userPassword"}, Who: "*", Access: embedded.Auth},
			{Base: fixture.Base("x.test"), Who: "group:cn=team,ou=groups," + fixture.Base("x.test"), Access: embedded.Write},
			{Base: fixture.Base("x.test"), Who: "dn:UID=u0001, ou=People," + other, Access: embedded.Compare},
			{Attributes: []string{"description", "mailForwardingAddress"}, Who: "self", Access: embedded.Write},
			{Base: fixture.Base("x.test"), Who: "subtree:" + fixture.Base("x.test"), Access: embedded.Read},
			{Base: other, Who: "subtree:" + other, Access: embedded.Read},
			{Base: other, Attributes: []string{"entry", "cn"}, Who: "anonymous", Access: embedded.Read},
			{Base: fixture.Base("x.test"), Attributes: []string{"cn"}, Who: "anonymous", Access: embedded.Read},
		}
	})
	one := connect(t, s, "uid=u0001,"+people, fixture.Password) // in the group team
	stranger := connect(t, s, "uid=u0001,ou=people,"+other, fixture.Password)
	nobody := connect(t, s, "", "")
	forward := connect(t, s, "uid=forward,"+people, fixture.Password) // in x.test, not in the group

	if got, _ := find(one, "o=isp", ldap.ScopeWholeSubtree, "(uid=u0002)"); !slices.Equal(got, []string{"uid=u0002"}) {
		t.Errorf("the administrator finds %q, want those of the own organization", got)
	}
	if got, _ := find(stranger, "o=isp", ldap.ScopeWholeSubtree, "(uid=u0001)"); !slices.Equal(got, []string{"uid=u0001"}) {
		t.Errorf("the stranger finds %q", got)
	}
	if got, _ := find(nobody, other, ldap.ScopeWholeSubtree, "(cn=User 0001)"); len(got) != 1 {
		t.Errorf("anonymous finds %q by cn", got)
	}
	if got, _ := find(nobody, other, ldap.ScopeWholeSubtree, "(uid=u0001)"); len(got) != 0 {
		t.Errorf("anonymous finds %q by uid", got)
	}
	if got, _ := find(nobody, "o=isp", ldap.ScopeWholeSubtree, "(cn=User 0002)"); len(got) != 1 {
		t.Errorf("anonymous finds %q, want no entry that only its cn may be read of", got)
	}
	res, err := nobody.Search(ldap.NewSearchRequest(other, 2, 0, 0, 0, false, "(cn=User 0001)", nil, nil))
	if err != nil || len(res.Entries) != 1 || len(res.Entries[0].Attributes) != 1 || res.Entries[0].GetAttributeValue("cn") == "" {
		t.Errorf("anonymous reads %+v, %v", res, err)
	}
	for name, tt := range map[string]struct{ got, want uint16 }{
		"administrator changes a user":        {modify(one, "uid=u0002,"+people, "mailHost", "pair9"), 0},
		"administrator adds":                  {add(one, "ou=more,"+fixture.Base("x.test")), 0},
		"administrator deletes":               {code(one.Del(ldap.NewDelRequest("ou=more,"+fixture.Base("x.test"), nil))), 0},
		"administrator adds elsewhere":        {add(one, "ou=more,"+other), denied},
		"administrator changes elsewhere":     {modify(one, "uid=u0002,ou=people,"+other, "mailHost", "pair9"), denied},
		"administrator moves away":            {code(one.ModifyDN(ldap.NewModifyDNRequest("uid=u0004,"+people, "uid=u0004", true, "ou=people,"+other))), denied},
		"administrator renames":               {code(one.ModifyDN(ldap.NewModifyDNRequest("uid=u0004,"+people, "uid=four", true, ""))), 0},
		"administrator sets another password": {modify(one, "uid=u0002,"+people, "userPassword", "x"), denied},
		"owner changes what is allowed":       {modify(forward, "uid=forward,"+people, "description", "x"), 0},
		"owner changes what is not":           {modify(forward, "uid=forward,"+people, "mailHost", "pair9"), denied},
		"owner changes another":               {modify(forward, "uid=u0002,"+people, "description", "x"), denied},
		"anonymous writes":                    {modify(nobody, "uid=u0002,"+people, "description", "x"), denied},
		"comparing is allowed":                {code(compare(stranger, "uid=u0002,"+people, "mail", "u0002@x.test")), 0},
		"comparing a password is not":         {code(compare(one, "uid=u0002,"+people, "userPassword", fixture.Password)), denied},
		"operational attributes are ours":     {modify(one, "uid=u0002,"+people, "entryUUID", "x"), ldap.LDAPResultConstraintViolation},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", name, tt.got, tt.want)
		}
	}
	for _, bad := range []embedded.Rule{{Who: "me"}, {Who: ""}, {Who: "dn:"}, {Who: "*:x"}, {Who: "users", Base: "x"}, {Who: "group:x"}} {
		if _, err := embedded.New(embedded.Config{Rules: []embedded.Rule{bad}}); err == nil {
			t.Errorf("rule %+v was taken", bad)
		}
	}
}

// TestPasswordModify: RFC 3062, by the owner and by the root DN.
func TestPasswordModify(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Tree("x.test", 3, 1))
	const dn = "uid=u0001,"
	user := connect(t, s, dn+people, fixture.Password)
	login := func(password string) uint16 {
		c, err := ldap.DialURL(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return code(c.Bind(dn+people, password))
	}
	set := func(c *ldap.Conn, who, old, password string) (string, uint16) {
		res, err := c.PasswordModify(ldap.NewPasswordModifyRequest(who, old, password))
		if err != nil {
			return "", code(err)
		}
		return res.GeneratedPassword, 0
	}
	if _, c := set(user, "", "wrong", "new one"); c != ldap.LDAPResultInvalidCredentials {
		t.Errorf("with a wrong old password: %d", c)
	}
	if _, c := set(user, "", fixture.Password, "new one"); c != 0 || login("new one") != 0 || login(fixture.Password) == 0 {
		t.Errorf("own password: %d", c)
	}
	if generated, c := set(user, "dn:"+dn+people, "", ""); c != 0 || len(generated) < 20 || login(generated) != 0 {
		t.Errorf("made up: %q, %d", generated, c)
	}
	if _, c := set(user, "uid=u0002,"+people, "", "x"); c != denied {
		t.Errorf("another's password: %d", c)
	}
	if _, c := set(connect(t, s, "", ""), dn+people, "", "x"); c != denied {
		t.Errorf("anonymous: %d", c)
	}
	admin := root(t, s)
	if _, c := set(admin, dn+people, "", "by the root"); c != 0 || login("by the root") != 0 {
		t.Errorf("by the root DN: %d", c)
	}
	if _, c := set(admin, "uid=none,"+people, "", "x"); c != ldap.LDAPResultNoSuchObject {
		t.Errorf("of nobody: %d", c)
	}
	res, err := admin.Search(ldap.NewSearchRequest(dn+people, 0, 0, 0, 0, false, "(objectClass=*)", []string{"userPassword", "modifiersName"}, nil))
	if err != nil || strings.Contains(res.Entries[0].GetAttributeValue("userPassword"), "root") || res.Entries[0].GetAttributeValue("modifiersName") != dirtest.RootDN {
		t.Errorf("stored: %+v, %v", res, err)
	}
}

// TestExternal: who owns the process at the other end of the socket.
func TestExternal(t *testing.T) {
	cfg := embedded.Config{
		LDIF: fixture.Tree("x.test", 2, 1), RootDN: dirtest.RootDN, RootPassword: "x",
		Peers: map[int]string{os.Getuid(): dirtest.RootDN},
	}
	bind := func(url string) (*ldap.Conn, uint16) {
		c, err := ldap.DialURL(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, code(c.ExternalBind())
	}
	c, result := bind(onSocket(t, cfg))
	if result != 0 {
		peertest.Lacks(t, "EXTERNAL over a socket gives %d on this system", result)
	}
	who, err := c.WhoAmI(nil)
	if err != nil || who.AuthzID != "dn:"+dirtest.RootDN {
		t.Errorf("WhoAmI: %+v, %v", who, err)
	}
	if got := add(c, "ou=new,o=isp"); got != 0 {
		t.Errorf("add: %d", got)
	}
	cfg.Peers = map[int]string{os.Getuid() + 1: dirtest.RootDN}
	if _, result := bind(onSocket(t, cfg)); result != ldap.LDAPResultInvalidCredentials {
		t.Errorf("a user who is not listed: %d", result)
	}
	overTCP, err := ldap.DialURL(dirtest.Embedded(t, fixture.Tree("x.test", 1, 1)).URL)
	if err != nil {
		t.Fatal(err)
	}
	defer overTCP.Close()
	if got := code(overTCP.ExternalBind()); got != ldap.LDAPResultInappropriateAuthentication {
		t.Errorf("EXTERNAL over TCP: %d", got)
	}
}

// TestOperational: what the server keeps of each entry, and what it tells of
// itself.
func TestOperational(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1))
	c := root(t, s)
	if got := add(c, "ou=new,o=isp"); got != 0 {
		t.Fatal(got)
	}
	get := func(dn string, attrs ...string) *ldap.Entry {
		t.Helper()
		res, err := c.Search(ldap.NewSearchRequest(dn, 0, 0, 0, 0, false, "(objectClass=*)", attrs, nil))
		if err != nil || len(res.Entries) != 1 {
			t.Fatalf("%s: %+v, %v", dn, res, err)
		}
		return res.Entries[0]
	}
	e := get("ou=new,o=isp", "+")
	for _, name := range []string{"entryCSN", "modifyTimestamp", "createTimestamp", "entryUUID", "creatorsName", "modifiersName", "subschemaSubentry", "entryDN", "hasSubordinates"} {
		if e.GetAttributeValue(name) == "" {
			t.Errorf("no %s in %+v", name, e)
		}
	}
	if e.GetAttributeValue("creatorsName") != dirtest.RootDN || e.GetAttributeValue("hasSubordinates") != "FALSE" {
		t.Errorf("%+v", e)
	}
	if get("o=isp", "hasSubordinates").GetAttributeValue("hasSubordinates") != "TRUE" {
		t.Error("the top has no subordinates")
	}
	uuid := e.GetAttributeValue("entryUUID")
	if err := c.ModifyDN(ldap.NewModifyDNRequest("ou=new,o=isp", "ou=newer", true, "")); err != nil {
		t.Fatal(err)
	}
	if e := get("ou=newer,o=isp", "entryUUID"); e.GetAttributeValue("entryUUID") != uuid {
		t.Error("a new name is a new UUID")
	}
	if got, _ := find(c, "o=isp", 2, "(entryUUID="+uuid+")"); !slices.Equal(got, []string{"ou=newer"}) {
		t.Errorf("found by its UUID: %q", got)
	}
	dse := get("", "+")
	for name, want := range map[string]string{
		"supportedExtension": "1.3.6.1.4.1.4203.1.11.1", "supportedControl": ldap.ControlTypePaging,
		"supportedFeatures": "1.3.6.1.1.14", "subschemaSubentry": "cn=Subschema", "namingContexts": "o=isp",
	} {
		if !slices.Contains(dse.GetAttributeValues(name), want) {
			t.Errorf("root DSE: %s is %q", name, dse.GetAttributeValues(name))
		}
	}
	sub := get(get("o=isp", "subschemaSubentry").GetAttributeValue("subschemaSubentry"), "*", "+")
	for name, want := range map[string]string{"attributeTypes": "NAME 'mailAlternateAddress'", "objectClasses": "NAME 'inetOrgPerson'", "matchingRules": "caseIgnoreMatch", "ldapSyntaxes": "1.3.6.1.4.1.1466.115.121.1.15"} {
		if !strings.Contains(strings.Join(sub.GetAttributeValues(name), "\n"), want) {
			t.Errorf("subschema: no %s in %s", want, name)
		}
	}
}

// TestIncrement: RFC 4525.
func TestIncrement(t *testing.T) {
	tree := append(fixture.Tree("x.test", 2, 1), []byte("dn: uid=n,"+people+"\nobjectClass: inetOrgPerson\nobjectClass: inetMailUser\nuid: n\ncn: n\nsn: n\nmailMsgQuota: 5\n\n")...)
	s := dirtest.Embedded(t, tree)
	c := root(t, s)
	inc := func(attr, by string) uint16 {
		req := ldap.NewModifyRequest("uid=n,"+people, nil)
		req.Increment(attr, by)
		return code(c.Modify(req))
	}
	for _, tt := range []struct {
		attr, by string
		want     uint16
	}{
		{"mailMsgQuota", "3", 0},
		{"mailMsgQuota", "-10", 0},
		{"mailMsgQuota", "x", ldap.LDAPResultInvalidAttributeSyntax},
		{"cn", "1", ldap.LDAPResultConstraintViolation},
		{"mailHost", "1", ldap.LDAPResultNoSuchAttribute},
	} {
		if got := inc(tt.attr, tt.by); got != tt.want {
			t.Errorf("increment %s by %s: %d, want %d", tt.attr, tt.by, got, tt.want)
		}
	}
	if got, _ := find(c, people, 2, "(&(mailMsgQuota=-2)(mailMsgQuota<=-1)(mailMsgQuota>=-3))"); len(got) != 1 {
		t.Errorf("5 + 3 - 10 is not -2")
	}
}
