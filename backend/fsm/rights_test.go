package fsm

import (
	"testing"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// rights gives a right to somebody, and returns the code.
func (r *replica) rights(a *account, name, who string, action command.StoreOp, right command.Right, owners bool) command.Code {
	r.t.Helper()
	code := r.do(&command.Rights{Head: command.Head{Time: t0}, Account: a.ID, Name: name, Identifier: who, Action: action, Rights: right, Owners: owners}).(*command.Done).Code
	r.check()
	return code
}

// lands is the mailbox that mail for a folder goes to.
func (r *replica) lands(folder string, owners bool, poster ...string) string {
	r.t.Helper()
	c := delivery(1, 10, t0, command.Recipient{Account: "ann@x", Folder: folder, Poster: poster})
	c.Compact, c.Owners = true, owners
	to := r.do(c).(*command.Delivered).Recipients[0]
	if to.Code != command.OK || to.Refused && to.Mailbox != inbox {
		r.t.Fatalf("%+v", to)
	}
	if to.Refused {
		return "refused"
	}
	return to.Mailbox
}

func annWith(r *replica, folders ...string) *account {
	r.t.Helper()
	id := r.do(&command.Account{Head: command.Head{Time: t0}, Name: "ann@x", Seed: 5}).(*command.Done).Account
	for _, name := range folders {
		r.do(&command.Create{Head: command.Head{Time: t0}, Account: id, Name: name})
	}
	a, err := r.owner(id)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// TestPost: u+work@d lands in work if it exists and grants p to the sender or to
// anyone, otherwise in INBOX (directory.md 4.7).
func TestPost(t *testing.T) {
	r := newReplica(t)
	a := annWith(r, "work")
	for _, tt := range []struct {
		name   string
		folder string
		owners bool
		poster []string
		want   string
	}{
		{"no list, a stranger", "work", false, nil, "work"},
		{"no list, somebody", "work", false, []string{"eva@x"}, "work"},
		{"no list, owners', a stranger", "work", true, nil, "refused"},
		{"no list, owners', somebody", "work", true, []string{"eva@x"}, "refused"},
		{"no list, owners', the owner", "work", true, []string{"ann@y", "ann@x"}, "work"},
		{"no folder", "other", false, nil, inbox},
		{"INBOX is everybody's", inbox, true, nil, inbox},
	} {
		if got := r.lands(tt.folder, tt.owners, tt.poster...); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if code := r.rights(a, "work", "eva@x", command.StoreReplace, command.RightPost, true); code != command.OK {
		t.Fatal(code)
	}
	for _, owners := range []bool{true, false} { // there is a list: what stands for none does not count
		for want, poster := range map[string][]string{"refused": {"bob@x"}, "work": {"bob@x", "eva@x"}} {
			if got := r.lands("work", owners, poster...); got != want {
				t.Errorf("%v: %s, want %s", poster, got, want)
			}
		}
	}
	if got := r.lands("work", false); got != "refused" {
		t.Errorf("a stranger, with a list: %s", got)
	}
	if got := r.lands("work", true, "ann@x"); got != "work" {
		t.Errorf("the owner, without a line: %s", got)
	}
	r.rights(a, "work", "eva@x", command.StoreReplace, 1, true) // another right is not this one
	if got := r.lands("work", false, "eva@x"); got != "refused" {
		t.Errorf("with another right: %s", got)
	}
	r.rights(a, "work", command.Anyone, command.StoreAdd, command.RightPost, true)
	if got := r.lands("work", true); got != "work" {
		t.Errorf("a stranger, anyone may: %s", got)
	}
	if a.box("work").n.Messages == 0 || a.box(inbox).n.Messages == 0 {
		t.Error("the test tests nothing")
	}
}

// TestNegative: who posts has the rights of all lines that name one of the
// identities less those of the negative ones, in whatever order they came; and what
// is not told of who posts is taken for named by those.
func TestNegative(t *testing.T) {
	r := newReplica(t)
	a := annWith(r, "work")
	for _, tt := range []struct {
		who    string
		action command.StoreOp
		right  command.Right
	}{
		{"eva@x", command.StoreAdd, command.RightPost},
		{"-crew@x", command.StoreAdd, command.RightPost},
		{"anyone@x", command.StoreAdd, command.RightPost},
		{"-bob@x", command.StoreReplace, command.RightPost | 1},
		{"-dan@x", command.StoreAdd, 1}, // another right
	} {
		if code := r.rights(a, "work", tt.who, tt.action, tt.right, true); code != command.OK {
			t.Fatal(tt.who, code)
		}
	}
	if code := r.rights(a, "work", "-ann@x", command.StoreAdd, command.RightPost, true); code != command.NotAllowed {
		t.Errorf("the owner, negative: %d", code)
	}
	if code := r.rights(a, inbox, "-bob@x", command.StoreAdd, command.RightPost, true); code != command.NotAllowed {
		t.Errorf("INBOX, negative: %d", code)
	}
	for _, tt := range []struct {
		want   string
		poster []string
	}{
		{"work", []string{"eva@x"}},
		{"work", []string{"eva@y", "anyone@x"}},
		{"work", []string{"dan@x", "anyone@x"}},
		{"work", []string{"ann@x", "crew@x", "-"}},
		{"refused", nil},
		{"refused", []string{"eva@y", "anyone@y"}},
		{"refused", []string{"eva@x", "crew@x"}},
		{"refused", []string{"bob@x", "anyone@x", "eva@x"}},
		{"refused", []string{"-bob@x", "bob"}},
		{"refused", []string{"-crew@x"}},
		{"refused", []string{"eva@x", "-"}},
	} {
		if got := r.lands("work", false, tt.poster...); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.poster, got, tt.want)
		}
	}
	r.rights(a, "work", "-bob@x", command.StoreRemove, command.RightPost, true)
	if got := r.lands("work", false, "bob@x", "anyone@x"); got != "work" {
		t.Errorf("taken from nobody any more: %s", got)
	}
	r.rights(a, "work", "-anyone", command.StoreAdd, command.RightPost, true)
	for want, poster := range map[string]string{"refused": "eva@x", "work": "ann@x"} {
		if got := r.lands("work", false, poster); got != want {
			t.Errorf("taken from everybody, %s: %s", poster, got)
		}
	}
}

// TestOwnerCalledAnyone: whoever has an account in the domain is not the owner of
// the mailboxes of a user called anyone.
func TestOwnerCalledAnyone(t *testing.T) {
	r := newReplica(t)
	id := r.do(&command.Account{Head: command.Head{Time: t0}, Name: "anyone@x", Seed: 5}).(*command.Done).Account
	r.do(&command.Create{Head: command.Head{Time: t0}, Account: id, Name: "work"})
	c := delivery(1, 10, t0, command.Recipient{Account: "anyone@x", Folder: "work", Poster: []string{"eva@x", "anyone@x"}})
	c.Compact, c.Owners = true, true
	if to := r.do(c).(*command.Delivered).Recipients[0]; !to.Refused {
		t.Errorf("%+v", to)
	}
}

// TestRights: lines of a list come and go, and an empty list is one.
func TestRights(t *testing.T) {
	r := newReplica(t)
	a := annWith(r, "work")
	list := func() []store.Grant { return a.box("work").rights.Grants }
	if code := r.rights(a, "work", "eva@x", command.StoreAdd, command.RightPost|1, false); code != command.OK || len(list()) != 2 {
		t.Fatalf("%d: %v", code, list())
	}
	r.rights(a, "work", "eva@x", command.StoreRemove, 1, true)
	if got := list(); got[0] != (store.Grant{Identifier: command.Anyone, Rights: uint32(command.RightPost)}) || got[1] != (store.Grant{Identifier: "eva@x", Rights: uint32(command.RightPost)}) {
		t.Errorf("%v", got)
	}
	r.rights(a, "work", "eva@x", command.StoreRemove, command.RightPost, false)
	r.rights(a, "work", command.Anyone, command.StoreReplace, 0, false)
	if got := list(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := r.lands("work", false); got != "refused" {
		t.Errorf("an empty list: %s", got)
	}
	for i := range command.MaxGrants {
		who := string([]byte{'a' + byte(i%26), 'a' + byte(i/26)})
		if code := r.rights(a, "work", who, command.StoreAdd, command.RightPost, false); code != command.OK {
			t.Fatal(i, code)
		}
	}
	before := r.sum()
	for name, tt := range map[string]struct {
		box, who string
		want     command.Code
	}{
		"one too many":         {"work", "zz@x", command.AtLimit},
		"no mailbox":           {"other", "eva@x", command.NoMailbox},
		"INBOX":                {inbox, "eva@x", command.NotAllowed},
		"the owner":            {"work", "ann@x", command.NotAllowed},
		"nobody":               {"work", "", command.NotAllowed},
		"one more of the same": {"work", "aa", command.OK},
	} {
		if code := r.rights(a, tt.box, tt.who, command.StoreAdd, command.RightPost, false); code != tt.want {
			t.Errorf("%s: %d, want %d", name, code, tt.want)
		}
	}
	if r.sum() != before {
		t.Error("something changed")
	}
	if done := r.do(&command.Rights{Account: 999, Name: "work", Identifier: "eva@x"}).(*command.Done); done.Code != command.NoAccount {
		t.Errorf("%+v", done)
	}
}

// TestRightsOfFolders: a list goes with its folder, wherever that is renamed to,
// ends with it, and is what a folder below begins with.
func TestRightsOfFolders(t *testing.T) {
	r := newReplica(t)
	a := annWith(r, "work")
	r.rights(a, "work", "eva@x", command.StoreReplace, command.RightPost, true)
	head := command.Head{Time: t0}
	for _, c := range []command.Command{
		&command.Create{Head: head, Account: a.ID, Name: "work/a/b"},
		&command.Rename{Head: head, Account: a.ID, From: "work", To: "play"},
		&command.Create{Head: head, Account: a.ID, Name: "work"},
		&command.Create{Head: head, Account: a.ID, Name: "play/c"},
	} {
		r.do(c)
		r.check()
	}
	create := delivery(1, 10, t0, command.Recipient{Account: "ann@x", Folder: "play/d", Create: true})
	create.Compact = true
	r.do(create)
	want := func(folder, got string) {
		t.Helper()
		if lands := r.lands(folder, false); lands != got {
			t.Errorf("%s: %s, want %s", folder, lands, got)
		}
	}
	want("work", "work")
	want("play", "refused")
	want("play/a/b", "refused")
	want("play/c", "refused")
	want("play/d", "refused")
	// A list of its own: the one above changes nothing in it.
	r.rights(a, "play", command.Anyone, command.StoreAdd, command.RightPost, true)
	want("play/c", "refused")
	for _, name := range []string{"play/a/b", "play/c", "play/d", "play"} {
		if done := r.do(&command.Delete{Head: head, Account: a.ID, Name: name, Limit: 9}).(*command.Done); done.Code != command.OK {
			t.Errorf("%s: %+v", name, done)
		}
		r.check()
	}
	r.do(&command.Create{Head: head, Account: a.ID, Name: "play/c"})
	want("play/c", "play/c")

	r.rights(a, "work", "eva@x", command.StoreReplace, command.RightPost, true)
	r.do(&command.Remove{Head: head, Account: a.ID, Limit: 100})
	r.check()
	annWith(r, "work")
	want("work", "work")
}

// TestRightsLast: a list is there after a power cut, as far as it was flushed,
// and where accounts are forgotten all the time.
func TestRightsLast(t *testing.T) {
	r := newReplica(t)
	a := annWith(r, "work")
	r.rights(a, "work", "eva@x", command.StoreReplace, command.RightPost, true)
	if _, err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	again := start(t, r.disk.Crash(0, 1), Config{Accounts: 1})
	defer again.stop()
	again.deliver(delivery(2, 10, t0, command.Recipient{Account: "bob@x"}))
	for want, poster := range map[string][]string{"refused": nil, "work": {"eva@x"}} {
		if got := again.lands("work", false, poster...); got != want {
			t.Errorf("%v: %s, want %s", poster, got, want)
		}
		again.check()
	}
}

// TestRightsMove: a list arrives with its mailbox, and goes when it is gone there.
func TestRightsMove(t *testing.T) {
	r := newReplica(t)
	r.step(command.OK, command.MoveArrive, 1, t0)
	bring := func(box command.ImportMailbox) {
		t.Helper()
		box.UIDNext, box.ModSeq = 1, 1
		if done := r.do(&command.Import{Head: command.Head{Time: t0}, Account: "ann@x", Token: command.Key{1}, Mailbox: &box}).(*command.Done); done.Code != command.OK {
			t.Fatalf("%+v", done)
		}
		r.check()
	}
	bring(command.ImportMailbox{Name: inbox, UIDValidity: 1})
	eva := []command.Grant{{Identifier: "eva@x", Rights: command.RightPost}}
	bring(command.ImportMailbox{Name: "work", UIDValidity: 2, Listed: true, Grants: eva})
	bring(command.ImportMailbox{Name: "play", UIDValidity: 2, Listed: true, Grants: eva})
	bring(command.ImportMailbox{Name: "work", UIDValidity: 3, Listed: true, Grants: eva})
	bring(command.ImportMailbox{Name: "work", UIDValidity: 3, Listed: true})
	bring(command.ImportMailbox{Name: "open", UIDValidity: 4, Listed: true, Grants: eva})
	bring(command.ImportMailbox{Name: "open", UIDValidity: 4})
	r.step(command.OK, command.MoveOpen, 1, t0)
	for folder, want := range map[string]string{"play": "play", "work": "refused", "open": "open"} {
		if got := r.lands(folder, false, "eva@x"); got != want {
			t.Errorf("%s: %s, want %s", folder, got, want)
		}
	}
}
