package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

// TestConfiguration: a node says what it uses and where that comes from, and
// what another file would change, without changing anything.
func TestConfiguration(t *testing.T) {
	t.Setenv("POSTERN_RETAIN_MAX_LOG", "7MB")
	n, dir := node(t, func(context.Context, *Node[config.Witness]) error { return nil })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.main(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	api := admin.NewUnixClient(filepath.Join(dir, "admin.sock"))
	defer api.Close()
	var c admin.Config
	eventually(t, "the node answers", func() (ok bool) {
		var err error
		c, err = admin.Call(ctx, api, admin.GetConfig, admin.None{})
		return err == nil
	})
	file := filepath.Join(dir, "c.yaml")
	if c.File != file || c.Values["node"] != "w" {
		t.Errorf("file %s, values %v", c.File, c.Values)
	}
	for name, want := range map[string]string{"node": file + ":", "retain.max_log": "environment POSTERN_RETAIN_MAX_LOG", "runtime.gc_percent": "default"} {
		i := slices.IndexFunc(c.Settings, func(s admin.Setting) bool { return s.Name == name })
		if i < 0 || !strings.HasPrefix(c.Settings[i].Source, want) {
			t.Errorf("%s comes from %+v, want %s", name, c.Settings[i], want)
		}
	}

	before, text := n.Live.Current(), read(t, file)
	next := strings.Replace(text, "level: error", "level: debug", 1) + "retain: {max_log: 9MB}\nadmin: {listen: \"127.0.0.1:9\"}\n"
	got, err := admin.Call(ctx, api, admin.CompareConfig, admin.ConfigText{Name: "next.yaml", Text: next})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Differences) != 2 || got.Differences[0].Name != "admin.listen" || got.Differences[0].Reload ||
		got.Differences[1].Name != "log.level" || !got.Differences[1].Reload || got.Differences[1].Old != "error" || !strings.HasPrefix(got.Differences[1].NewSource, "next.yaml:") {
		t.Errorf("%+v; what the environment gives is no difference", got.Differences)
	}
	_, err = admin.Call(ctx, api, admin.CompareConfig, admin.ConfigText{Name: "next.yaml", Text: text + "retian: 1\n"})
	var refused *admin.Error
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("a wrong text: %v", err)
	}
	if n.Live.Current() != before {
		t.Error("comparing has changed something")
	}
}
