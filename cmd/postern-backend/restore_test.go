package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/admin"
)

// TestRestoreProperties: folders that a restore makes have the list of rights, the
// special use and the subscription that they had; those that are there keep theirs.
func TestRestoreProperties(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.level = 2
	ctx, ann := t.Context(), "ann@example.org"
	open := func(name string) *mailbox.Account {
		a, err := n.boxes.Account(ctx, name)
		n.check(err)
		return a
	}
	a := open(eva)
	for _, name := range []string{"Work", "Work/Open", "Work/Mine", "Plain"} { // Open begins with the list of Work
		_, err := a.Create(ctx, name, nil)
		n.check(err)
		if name == "Work" {
			n.check(a.SetGrant(ctx, name, "-bob@example.org", mailbox.StoreAdd, "p"))
			n.check(a.SetGrant(ctx, name, ann, mailbox.StoreAdd, "p"))
		}
	}
	_, err := a.Create(ctx, "Main", []string{`\Important`})
	n.check(err)
	n.check(a.SetGrant(ctx, "Work/Open", "-bob@example.org", mailbox.StoreReplace, ""))
	n.check(a.SetGrant(ctx, "Work/Open", ann, mailbox.StoreReplace, ""))
	n.check(a.SetGrant(ctx, "Work/Mine", "-bob@example.org", mailbox.StoreReplace, ""))
	n.check(a.SetGrant(ctx, "Work/Mine", ann, mailbox.StoreReplace, ""))
	n.check(a.SetGrant(ctx, "Work/Mine", mailbox.Anyone, mailbox.StoreReplace, ""))
	n.check(a.Subscribe(ctx, "Work/Mine", true))
	n.check(a.Subscribe(ctx, "Nowhere", true))
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "monday"})

	// What somebody has is "name (rights) use, subscribed".
	has := func(name, prefix string) (out []string) {
		t.Helper()
		a := open(name)
		grants, err := a.AllGrants(ctx)
		n.check(err)
		list, err := a.List(ctx)
		n.check(err)
		for _, m := range list {
			if rest, ok := strings.CutPrefix(m.Name, prefix); ok && !m.NonExistent {
				text := rest + fmt.Sprint(" ", grants[m.Name], " ", strings.Join(m.SpecialUse, " "))
				if m.Subscribed {
					text += " subscribed"
				}
				out = append(out, text)
			}
		}
		return out
	}
	restore := func(r admin.Restore) {
		t.Helper()
		n.mustDo(admin.UpkeepTask{Task: admin.TaskRestore, Name: "monday", Restore: &r})
	}
	was := has(eva, "")
	for _, name := range []string{"Work/Open", "Work/Mine", "Work", "Main"} {
		n.check(a.Delete(ctx, name))
		n.check(a.Subscribe(ctx, name, false))
	}
	for _, folder := range []string{"Work", "Work/Mine", "Work/Open", "Main"} { // one by one: those above are there
		restore(admin.Restore{Account: eva, Folder: folder, To: folder})
	}
	if now := has(eva, ""); !slices.Equal(now, was) {
		t.Errorf("one by one\n%q, was\n%q", now, was)
	}
	restore(admin.Restore{Account: eva})
	under := slices.DeleteFunc(has(eva, "Restored/"), func(s string) bool { return strings.HasPrefix(s, "INBOX") })
	want := slices.DeleteFunc(slices.Clone(was), func(s string) bool { return strings.HasPrefix(s, "INBOX") })
	for i := range want { // the uses are taken
		for _, use := range []string{`\Archive`, `\Drafts`, `\Junk`, `\Sent`, `\Trash`, `\Important`} {
			want[i] = strings.Replace(want[i], use, "", 1)
		}
	}
	if !slices.Equal(under, want) {
		t.Errorf("all of it\n%q, want\n%q", under, want)
	}

	// To somebody else, who is in the list; into folders that are there; one message.
	b := open(ann)
	_, err = b.Create(ctx, "Here/Work", nil)
	n.check(err)
	restore(admin.Restore{Account: eva, Into: ann, To: "Here"})
	got := has(ann, "Here/")
	for _, line := range []string{"Work [{anyone p}] ", "Work/Mine []  subscribed", "Work/Open [{anyone p}] ", `Main [{anyone p}] \Important`} {
		if !slices.Contains(got, line) {
			t.Errorf("not %q in %q", line, got)
		}
	}
	restore(admin.Restore{Account: eva, Folder: "Work", Into: ann, To: "Again"})
	restore(admin.Restore{Account: eva, Folder: "Work", UIDs: []uint32{}, Into: ann, To: "Some"})
	for prefix, line := range map[string]string{"Again": " [{-bob@example.org p} {anyone p}] ", "Some": " [{anyone p}] "} {
		if got := has(ann, prefix); !slices.Equal(got, []string{line}) {
			t.Errorf("%s: %q, want %q", prefix, got, line)
		}
	}

	// A pair that knows no lists gets the mail.
	n.level = 1
	restore(admin.Restore{Account: eva, Folder: "Work/Mine", To: "Old"})
	if got := has(eva, "Old"); !slices.Equal(got, []string{" [{anyone p}]  subscribed"}) {
		t.Errorf("%q", got)
	}
}
