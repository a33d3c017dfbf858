package main

import (
	"slices"
	"testing"

	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory"
)

func TestSchemaOf(t *testing.T) {
	for name, tt := range map[string]struct {
		d    config.Directory
		want func(s *directory.Schema) bool // nil: refused
	}{
		"defaults": {config.Directory{}, func(s *directory.Schema) bool {
			return s.Name == "sun-schema2" && s.Separator == "+" && s.Layout == directory.LayoutOrganization
		}},
		"Schema 1": {config.Directory{Schema: "sun-schema1", SubaddressSeparator: "-"}, func(s *directory.Schema) bool {
			return s.Layout == directory.LayoutDC && s.Separator == "-"
		}},
		"wild": {config.Directory{Subaddress: "wild"}, func(s *directory.Schema) bool {
			return s.Subaddress == directory.SubaddressWild && s.Separator == "+"
		}},
		"relaxed":         {config.Directory{Subaddress: "relaxed"}, func(s *directory.Schema) bool { return s.Subaddress == directory.SubaddressRelaxed }},
		"no subaddresses": {config.Directory{SubaddressSeparator: "none"}, func(s *directory.Schema) bool { return s.Separator == "" }},
		"tags, then sets": {config.Directory{ClassTags: []string{"nms41"}, UserClasses: []string{"a+b", "c"}}, func(s *directory.Schema) bool {
			return len(s.UserClasses) == 2 && slices.Equal(s.UserClasses[0], []string{"a", "b"}) && slices.Equal(s.GroupClasses[0], []string{"mailGroup"})
		}},
		"names": {config.Directory{Attributes: []string{"mailHost=server", "alternate=x,y"}, ExtraAttributes: []string{"z"}}, func(s *directory.Schema) bool {
			return s.MailHost == "server" && slices.Equal(s.Alternate, []string{"x", "y"}) && slices.Contains(s.EntryAttributes(), "z")
		}},
		"filters": {config.Directory{DomainFilterSchema1: "(a=b)", DomainFilterSchema2: "(o=$D)"}, func(s *directory.Schema) bool {
			return s.DCFilter == "(a=b)" && s.OrganizationFilter == "(o=$D)"
		}},
		"unknown schema": {config.Directory{Schema: "x500"}, nil},
		"unknown tag":    {config.Directory{ClassTags: []string{"x"}}, nil},
		"bad name":       {config.Directory{Attributes: []string{"mailHost"}}, nil},
		"bad set":        {config.Directory{GroupClasses: []string{"a+"}}, nil},
	} {
		s, err := schemaOf(&tt.d)
		if (err == nil) != (tt.want != nil) || tt.want != nil && !tt.want(&s) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}
