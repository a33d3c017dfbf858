package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/config"
)

// TestCheck: --check reads what the configuration names and says what is wrong
// with it.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"mappings": "TABLE\n  *  $N\n", "wrong": "  *  $N\n", "de.txt": "[author]\nPoststelle\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spam := config.Filter{Name: "spam", Address: "unix:/run/spam.sock", OptIn: []string{"spam"}}
	for name, tt := range map[string]struct {
		change func(*config.Relay)
		want   string
	}{
		"nothing":      {func(*config.Relay) {}, ""},
		"files":        {func(c *config.Relay) { c.Notices.Texts, c.Expand.Mappings = dir, filepath.Join(dir, "mappings") }, ""},
		"refusal":      {func(c *config.Relay) { c.Expand.Texts = []string{"x"} }, "expand.texts"},
		"attribute":    {func(c *config.Relay) { c.Directory.Attributes = []string{"x"} }, "directory.attributes"},
		"netgroups":    {func(c *config.Relay) { c.Directory.NetgroupBase = "ou=netgroup,o=isp" }, ""},
		"group filter": {func(c *config.Relay) { c.Directory.NetgroupBase, c.Directory.NetgroupFilter = "o=isp", "(cn=$X)" }, "directory.netgroup_filter"},
		"group base":   {func(c *config.Relay) { c.Directory.NetgroupBase = "nowhere" }, "directory.netgroup_filter"},
		"mappings":     {func(c *config.Relay) { c.Expand.Mappings = filepath.Join(dir, "wrong") }, "expand.mappings"},
		"no mappings":  {func(c *config.Relay) { c.Expand.Mappings = filepath.Join(dir, "none") }, "expand.mappings"},
		"language":     {func(c *config.Relay) { c.Notices.Language = "nl" }, "notices.language"},
		"no directory": {func(c *config.Relay) { c.Notices.Texts = filepath.Join(dir, "none") }, "notices.texts"},
		"filters": {func(c *config.Relay) {
			c.Filters = []config.Filter{spam, {Name: "virus", Address: "inet:7357@127.0.0.1", Services: []string{"mx"}}}
		}, ""},
		"filter twice": {func(c *config.Relay) {
			c.Filters = []config.Filter{spam, {Name: "SPAM", Address: spam.Address, OptIn: spam.OptIn}}
		}, "filters[1].name"},
		"filter nowhere": {func(c *config.Relay) {
			c.Filters = []config.Filter{{Name: "x", Address: "127.0.0.1:25", OptIn: spam.OptIn}}
		}, "filters[0]"},
		"filter for none": {func(c *config.Relay) { c.Filters = []config.Filter{{Name: "x", Address: spam.Address}} }, "filters[0]"},
		"many filters":    {func(c *config.Relay) { c.Filters = slices.Repeat([]config.Filter{spam}, maxFilters+1) }, "at most"},
		"not directory":   {func(c *config.Relay) { c.Notices.Texts = filepath.Join(dir, "de.txt") }, "notices.texts"},
	} {
		c := new(config.Relay)
		c.Directory.Schema, c.Notices.Language = "sun-schema2", "en"
		tt.change(c)
		if err := check(c); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	c := new(config.Relay)
	c.Notices.Texts, c.Notices.Language = dir, "DE"
	if texts, err := noticeTexts(&c.Notices); err != nil || !texts.Has("de") {
		t.Errorf("%v, %v", texts, err)
	}
}
