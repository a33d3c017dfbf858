package main

import (
	"os"
	"path/filepath"
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
	for name, tt := range map[string]struct {
		change func(*config.Relay)
		want   string
	}{
		"nothing":       {func(*config.Relay) {}, ""},
		"files":         {func(c *config.Relay) { c.Notices.Texts, c.Expand.Mappings = dir, filepath.Join(dir, "mappings") }, ""},
		"refusal":       {func(c *config.Relay) { c.Expand.Texts = []string{"x"} }, "expand.texts"},
		"attribute":     {func(c *config.Relay) { c.Directory.Attributes = []string{"x"} }, "directory.attributes"},
		"netgroups":     {func(c *config.Relay) { c.Directory.NetgroupBase = "ou=netgroup,o=isp" }, ""},
		"group filter":  {func(c *config.Relay) { c.Directory.NetgroupBase, c.Directory.NetgroupFilter = "o=isp", "(cn=$X)" }, "directory.netgroup_filter"},
		"group base":    {func(c *config.Relay) { c.Directory.NetgroupBase = "nowhere" }, "directory.netgroup_filter"},
		"mappings":      {func(c *config.Relay) { c.Expand.Mappings = filepath.Join(dir, "wrong") }, "expand.mappings"},
		"no mappings":   {func(c *config.Relay) { c.Expand.Mappings = filepath.Join(dir, "none") }, "expand.mappings"},
		"language":      {func(c *config.Relay) { c.Notices.Language = "nl" }, "notices.language"},
		"no directory":  {func(c *config.Relay) { c.Notices.Texts = filepath.Join(dir, "none") }, "notices.texts"},
		"not directory": {func(c *config.Relay) { c.Notices.Texts = filepath.Join(dir, "de.txt") }, "notices.texts"},
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
