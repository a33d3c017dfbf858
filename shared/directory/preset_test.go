package directory

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestEveryNameCanBeReplaced: each purpose of each preset takes another
// attribute, which is asked for, and none.
func TestEveryNameCanBeReplaced(t *testing.T) {
	for _, name := range Presets {
		base, err := Preset(name)
		if err != nil || base.Name != name {
			t.Fatalf("Preset(%s): %q, %v", name, base.Name, err)
		}
		purposes := base.Purposes()
		if len(purposes) < 40 || !slices.Contains(purposes, "mailhost") || !slices.Contains(purposes, "routinghosts") || slices.Contains(purposes, "name") {
			t.Errorf("%s: purposes %q", name, purposes)
		}
		for _, p := range purposes {
			s := base
			if err := s.Rename(p + "=testAttribute"); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if reflect.DeepEqual(s, base) {
				t.Errorf("%s: renaming %s changes nothing", name, p)
			}
			if !slices.Contains(s.EntryAttributes(), "testAttribute") && !slices.Contains(s.DomainAttributes(), "testAttribute") &&
				p != "vanitydomain" { // which is only searched for
				t.Errorf("%s: the attribute of %s is not asked for", name, p)
			}
			if err := s.Rename(p + "="); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if slices.Contains(s.EntryAttributes(), "testAttribute") || slices.Contains(s.DomainAttributes(), "testAttribute") {
				t.Errorf("%s: %s is still asked for", name, p)
			}
		}
		if fresh, _ := Preset(name); !reflect.DeepEqual(fresh, base) {
			t.Errorf("%s: renaming a copy changes the preset", name)
		}
	}
	if _, err := Preset("x500"); err == nil || !strings.Contains(err.Error(), "sun-schema1") {
		t.Errorf("an unknown preset: %v", err)
	}
}

func TestRename(t *testing.T) {
	for rules, want := range map[string]func(s *Schema) bool{
		"mail_host=server":                       func(s *Schema) bool { return s.MailHost == "server" },
		"Mail-Host = server":                     func(s *Schema) bool { return s.MailHost == "server" },
		"mailRoutingHosts=hosts":                 func(s *Schema) bool { return s.RoutingHosts == "hosts" },
		"alternate=a,b;lang-de":                  func(s *Schema) bool { return slices.Equal(s.Alternate, []string{"a", "b;lang-de"}) },
		"mgrpDeliverTo=url":                      func(s *Schema) bool { return slices.Equal(s.MemberURL, []string{"url", "memberURL"}) },
		"mgrpDeliverTo=":                         func(s *Schema) bool { return slices.Equal(s.MemberURL, []string{"memberURL"}) },
		"mailQuota=":                             func(s *Schema) bool { return s.Quota == "" },
		"uid=mail":                               func(s *Schema) bool { return s.UID == "mail" && s.Mail == "mail" }, // two purposes share one
		"mailAlternateAddress=x|alternate=y":     func(s *Schema) bool { return slices.Equal(s.Alternate, []string{"y"}) },
		"canonical_domain=dnsName|uid=loginName": func(s *Schema) bool { return s.CanonicalDomain == "dnsName" && s.UID == "loginName" },
	} {
		s := SunSchema2()
		if err := s.Rename(strings.Split(rules, "|")...); err != nil || !want(&s) {
			t.Errorf("%s: %v, %+v", rules, err, s)
		}
	}
	for _, rule := range []string{"", "mail", "=x", "nothing=x", "mail=a,b", "mail=a b", "mail=(x", "mail=a*", "alternate=a,,b", "name=x", "separator=x"} {
		s := SunSchema2()
		if err := s.Rename(rule); err == nil {
			t.Errorf("rule %q was taken", rule)
		}
	}
}

func TestTags(t *testing.T) {
	s := SunSchema2()
	if err := s.SetTags("sims40", "IMS50"); err != nil {
		t.Fatal(err)
	}
	if got := s.AddressAttributes(); !slices.Equal(got, []string{"mail", "rfc822MailAlias", "mailAlternateAddress", "mailEquivalentAddress"}) {
		t.Errorf("addresses: %q", got)
	}
	for classes, want := range map[string]Kind{
		"inetMailRouting inetMailUser":                      User,
		"inetmailrouting INETMAILGROUP top":                 Group,
		"inetLocalMailRecipient inetMailUser":               User,
		"inetLocalMailRecipient inetMailUser inetMailGroup": User,
		"inetMailUser inetOrgPerson":                        Other,
		"inetLocalMailRecipient":                            Other,
		"mailRecipient nsMessagingServerUser":               Other,
		"":                                                  Other,
	} {
		if got := s.KindOf(strings.Fields(classes)); got != want {
			t.Errorf("%q is a %v, want %v", classes, got, want)
		}
	}
	if err := s.SetTags("nms41"); err != nil || s.KindOf([]string{"mailRecipient", "nsMessagingServerUser"}) != User || s.KindOf([]string{"mailGroup"}) != Group {
		t.Errorf("nms41: %v", err)
	}
	if err := s.SetTags("ims60"); err == nil {
		t.Error("an unknown tag was taken")
	}
	sets, err := ParseClasses([]string{"a + b", "c"})
	if err != nil || !reflect.DeepEqual(sets, [][]string{{"a", "b"}, {"c"}}) {
		t.Errorf("%q, %v", sets, err)
	}
	for _, bad := range []string{"", "a+", "a b", "(a"} {
		if sets, err := ParseClasses([]string{bad}); err == nil {
			t.Errorf("classes %q were taken: %q", bad, sets)
		}
	}
}

func TestFaultOf(t *testing.T) {
	for _, err := range []error{ErrUnavailable, ErrSlow, ErrIncomplete, ErrMisconfigured, ErrAmbiguous, ErrTooMany, ErrURL} {
		if kind := FaultOf(err); !slices.Contains(Faults, kind) || kind == "other" {
			t.Errorf("%v is %q", err, kind)
		}
	}
	for _, err := range []error{nil, ErrNotFound, ErrBadPassword} {
		if kind := FaultOf(err); kind != "" {
			t.Errorf("%v is %q", err, kind)
		}
	}
}
