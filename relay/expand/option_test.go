package expand

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

func TestTemplates(t *testing.T) {
	full := values{
		uid: "Ana", address: "ana+Work@host.example.org", domain: "host.example.org", local: "ana+Work", user: "ana", detail: "Work",
		hosted: "example.org", route: "r", host: "pair1.store.int", file: "/f", program: "sort", spareE: "e1", spareG: "g1",
	}
	bare := values{uid: "ana", address: "ana@example.org", domain: "example.org", local: "ana", user: "ana"}
	for _, tt := range []struct{ template, full, bare string }{
		{`$M`, "Ana", "ana"},
		{`$0M$2M`, "Aa", "aa"},
		{`$9M`, "!", "!"},
		{`$A`, "ana+Work@host.example.org", "ana@example.org"},
		{`$0A$3A`, "a+", "a@"},
		{`$D`, "host.example.org", "example.org"},
		{`$L`, "ana+Work", "ana"},
		{`$U`, "ana", "ana"},
		{`$S`, "Work", "!"},
		{`$0S`, "Work", "!"},
		{`a$1Sb`, "aWorkb", "ab"},
		{`a+$2Sb`, "a+Workb", "ab"},
		{`a$3S+b`, "aWork+b", "ab"},
		{`$I`, "example.org", "!"},
		{`$M%$2I@d`, "Ana%example.org@d", "ana@d"},
		{`$O`, "r", "!"},
		{`x$1O`, "xr", "x"},
		{`$X`, "pair1.store.int", "!"},
		{`$0X.$2X`, "pair1.int", "!"},
		{`$3X`, "!", "!"},
		{`$0H`, "host", "example"},
		{`$1J`, "org", "!"},
		{`$F`, "/f", "!"},
		{`$P`, "sort", "!"},
		{`$E$G`, "e1g1", "!"},
		{`$\$M$^$M$_$M`, "anaANAAna", "anaANAana"},
		{`@$X.LMTP:$M%$\$2I$_+$2S@lmtpcs-daemon`, "@pair1.store.int.LMTP:Ana%example.org+Work@lmtpcs-daemon", "!"},
		{`$M%$\$2I$_+$2S@ims-ms-daemon`, "Ana%example.org+Work@ims-ms-daemon", "ana@ims-ms-daemon"},
		{`a$$b`, "a$b", "a$b"},
		{`$2Sx`, "Workx", "x"},
		{`$3S`, "Work", ""},
	} {
		tmpl, err := parseTemplate(tt.template)
		if err != nil {
			t.Errorf("%q: %v", tt.template, err)
			continue
		}
		for v, want := range map[*values]string{&full: tt.full, &bare: tt.bare} {
			got, err := tmpl.expand(v)
			if err != nil {
				got = "!"
			}
			if got != want {
				t.Errorf("%q of %s = %q, %v, want %q", tt.template, v.address, got, err, want)
			}
		}
	}
	for text, want := range map[string]string{
		"": "octets", "a$": "nothing after", "$9": "nothing after", "$Q": "unknown", "$4I": "0 to 3", "$1D": "no number", "$1000M": "too large",
		strings.Repeat("x", maxTemplate+1): "octets",
	} {
		if _, err := parseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range Options {
		f.Add(s, "ana", "Work")
	}
	f.Add("x=$2S$3S$9Ma", "", "")
	f.Fuzz(func(t *testing.T, text, uid, detail string) {
		o, err := parseOption(text)
		if err != nil {
			return
		}
		if o.name == "" || !o.users && !o.groups {
			t.Errorf("%q: %+v", text, o)
		}
		v := values{uid: uid, address: uid + "@x", detail: detail}
		if out, err := o.template.expand(&v); err == nil && len(out) > 3*mail.MaxPath+len(uid) {
			t.Errorf("%q: %d octets", text, len(out))
		}
	})
}

func TestParseOptions(t *testing.T) {
	out, err := parseOptions([]string{"#*mailbox=$M@ims-ms-daemon", "#@^fax=$U@fax.example"})
	if err != nil {
		t.Fatal(err)
	}
	if o := out[0]; o.name != "mailbox" || o.does != doTemplate || !o.users || o.groups {
		t.Errorf("mailbox replaced: %+v", o)
	}
	if o := out[len(out)-1]; o.name != "fax" || !o.later || !o.dated || !o.anywhere || !o.users || !o.groups {
		t.Errorf("fax: %+v", o)
	}
	for text, want := range map[string]string{"mailbox": "no template", "#=x": "no name", "*x=*": "for nobody", "a b=x": "no name", "x=$Q": "unknown"} {
		if _, err := New(Config{Directory: fixture(), Pair: Pairs("pair1"), Options: []string{text}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	var many []string
	for i := range maxOptions {
		many = append(many, fmt.Sprintf("o%d=$M", i))
	}
	if _, err := parseOptions(many); err == nil {
		t.Error("too many options")
	}
}

// ask expands one local part of example.test as from a sender.
func ask(t testing.TB, x *Expander, from, local string) ([]mail.Recipient, []string) {
	t.Helper()
	env := &mail.Envelope{}
	if from != "" {
		a, err := mail.ParseAddress(from, true)
		if err != nil {
			t.Fatal(err)
		}
		env.ReversePath = a
	}
	rs, err := x.Rcpt(t.Context(), env, mail.Recipient{Address: mail.Address{Local: local, Domain: "example.test"}})
	if err != nil {
		e := mail.AsError("test", err)
		return rs, []string{fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)}
	}
	return rs, show(rs)
}

func put(d *tree, local string, e *directory.Entry, f func(*directory.Entry)) {
	if f != nil {
		f(e)
	}
	if e.Kind == directory.Group {
		e.DN, e.Mail = "cn="+local, local+"@example.test"
	}
	d.users[local+"@example.test"] = []*directory.Entry{e}
}

func TestDeliveryOptions(t *testing.T) {
	d := fixture()
	opt := func(local string, options ...string) {
		put(d, local, user(local, options...), func(e *directory.Entry) { e.Forwarding = []string{"x@out.test"} })
	}
	opt("program", "program")
	opt("native", "native", "mailbox")
	opt("unixonly", "unix")
	opt("comma", "mailbox, forward")
	opt("copy", "copy")
	opt("copyboth", "mailbox", "copy")
	opt("later", "later")
	opt("old", "old")
	opt("nothing", "drop")
	opt("groupish", "members", "file")
	opt("fails", "fails")
	opt("heldfwd", "hfwd")
	put(d, "offgroup", group("ann@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"members_offline", "members"} })
	put(d, "usergroup", group("ann@example.test"), func(e *directory.Entry) { e.DeliveryOptions = []string{"mailbox"} })
	put(d, "fwdgroup", group(), func(e *directory.Entry) {
		e.DeliveryOptions, e.Forwarding = []string{"forward"}, []string{"bob@example.test"}
	})
	x, err := New(Config{Directory: d, Pair: Pairs("pair1", "pair2"), Options: []string{
		"#*copy=$\\$M.$1M@archive.test", "#*@later=$M@archive.test", "#*old=@pair2.LMTP:$M+$1S@ims-ms-daemon", "#*drop=$M@bitbucket",
		"#*fails=$S@archive.test", "#/*hfwd=**",
	}})
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string][]string{
		"program":      {"tcp_lmtpcs pair1 program@example.test"}, // no such channel: the default
		"native":       {"tcp_lmtpcs pair1 native@example.test"},
		"unixonly":     {"tcp_lmtpcs pair1 unixonly@example.test"},
		"comma":        {"tcp_lmtpcs pair1 comma@example.test", "tcp_local x@out.test"},
		"copy":         {"tcp_local copy.o@archive.test"},
		"copyboth":     {"tcp_lmtpcs pair1 copyboth@example.test", "tcp_local copyboth.o@archive.test"},
		"later":        {"reprocess later@example.test"},
		"old":          {"tcp_lmtpcs pair2 old@example.test"},
		"old+Sub":      {"tcp_lmtpcs pair2 old@example.test/Sub"},
		"nothing":      {"bitbucket nothing@example.test"},
		"groupish":     {"tcp_lmtpcs pair1 groupish@example.test"},
		"fails":        {"451 4.3.5"},
		"fails+x":      {"tcp_local x@archive.test"},
		"heldfwd":      {"hold heldfwd@example.test"},
		"offgroup":     {"tcp_lmtpcs pair1 ann@example.test"}, // members without a detour is among them
		"usergroup":    {"tcp_lmtpcs pair1 ann@example.test"},
		"fwdgroup":     {"tcp_lmtpcs pair1 bob@example.test"},
		"onhold+Stuff": {"hold onhold+Stuff@example.test"},
	} {
		if _, got := ask(t, x, "a@b.test", local); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", local, got, want)
		}
	}
	rs, err := comeBack(t, x, &mail.Envelope{}, mail.Recipient{Address: mail.Address{Local: "later", Domain: "example.test"}})
	if err != nil || !slices.Equal(show(rs), []string{"tcp_local later@archive.test"}) {
		t.Errorf("later, later: %q, %v", show(rs), err)
	}
}

// Options with dates act from the first second to the last one, in virtual time.
func TestDates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		end := start.Add(24 * time.Hour)
		d := fixture()
		dated := func(local string, from, to time.Time) {
			put(d, local, user(local, "mailbox", "autoreply"), func(e *directory.Entry) {
				e.Start, e.End = from, to
				e.Away = &directory.Away{Mode: "reply", Text: []directory.Tagged{{Text: "gone"}}, Hours: 24}
			})
		}
		dated("both", start, end)
		dated("from", start, time.Time{})
		dated("to", time.Time{}, end)
		dated("open", time.Time{}, time.Time{})
		x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
		if err != nil {
			t.Fatal(err)
		}
		check := func(when string, want map[string]bool) {
			t.Helper()
			for local, away := range want {
				rs, _ := ask(t, x, "eve@out.test", local)
				if len(rs) != 1 || (rs[0].Autoreply != nil) != away {
					t.Errorf("%s, %s: %+v, want %v", when, local, rs, away)
				}
			}
		}
		time.Sleep(time.Until(start.Add(-time.Nanosecond)))
		check("before", map[string]bool{"both": false, "from": false, "to": true, "open": true})
		time.Sleep(time.Nanosecond)
		check("first second", map[string]bool{"both": true, "from": true, "to": true, "open": true})
		time.Sleep(time.Until(end.Add(time.Second - time.Nanosecond)))
		check("last second", map[string]bool{"both": true, "from": true, "to": true, "open": true})
		time.Sleep(time.Nanosecond)
		check("after", map[string]bool{"both": false, "from": true, "to": false, "open": true})
	})
}

func TestAway(t *testing.T) {
	d := fixture()
	d.domains = map[string]*directory.Domain{"hours.test": {Name: "hours.test", DomainSettings: directory.DomainSettings{AutoReplyTimeout: 5}}}
	texts := func(pairs ...string) (out []directory.Tagged) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, directory.Tagged{Language: pairs[i], Text: pairs[i+1]})
		}
		return out
	}
	away := func(local string, options []string, a directory.Away) {
		put(d, local, user(local, options...), func(e *directory.Entry) {
			e.Away, e.Alternate, e.Equivalent = &a, []string{"alt-" + local + "@example.test"}, []string{"eq@example.test"}
		})
	}
	both := []string{"mailbox", "autoreply"}

	away("two", both, directory.Away{Mode: "reply", Text: texts("", "out"), Internal: texts("", "in"), Hours: 24, Subject: texts("", "S"), Me: []string{"me@home.test"}})
	away("outer", both, directory.Away{Mode: "vacation", Text: texts("", "out"), Hours: directory.QuotaDefault})
	away("inner", both, directory.Away{Mode: "reply", Internal: texts("", "in"), Hours: directory.QuotaDefault})
	away("echo", both, directory.Away{Mode: "echo", Text: texts("", "out"), Hours: 3})
	away("odd", both, directory.Away{Mode: "other", Text: texts("", "out"), Hours: 0})
	away("only", []string{"autoreply"}, directory.Away{Mode: "reply", Text: texts("", "out"), Hours: 1})
	away("fwdonly", []string{"autoreply", "forward"}, directory.Away{Mode: "reply", Text: texts("", "out"), Hours: 1})
	d.users["fwdonly@example.test"][0].Forwarding = []string{"bob@example.test"}
	away("lang", both, directory.Away{Mode: "reply", Text: texts("", "plain", "fr", "bonjour", "pt-br", "oi"), Hours: 1})
	put(d, "none", user("none", both...), nil)
	for local, language := range map[string]string{"fran": "FR-ca", "pedro": "pt", "otto": "de"} {
		put(d, local, user(local), func(e *directory.Entry) { e.Language = language })
	}
	put(d, "awaylist", group("two@example.test"), nil)
	x, err := New(Config{Directory: d, Pair: Pairs("pair1")})
	if err != nil {
		t.Fatal(err)
	}
	hour := time.Hour
	for _, tt := range []struct{ from, local, want string }{
		{"eve@out.test", "two", "reply S/out " + (24 * hour).String()},
		{"bob@example.test", "two", "reply S/in " + (24 * hour).String()},
		{"BOB@EXAMPLE.test", "two", "reply S/in " + (24 * hour).String()},
		{"", "two", "-"},
		{"bob@example.test", "outer", "reply /out " + (7 * 24 * hour).String()},
		{"eve@out.test", "inner", "-"},
		{"bob@example.test", "inner", "reply /in " + (7 * 24 * hour).String()},
		{"eve@out.test", "echo", "echo /out 0s"},
		{"eve@out.test", "odd", "header /out 0s"},
		{"eve@out.test", "only", "reply /out 1h0m0s only"},
		{"eve@out.test", "none", "-"},
		{"eve@out.test", "lang", "reply /plain 1h0m0s"},
		{"fran@example.test", "lang", "reply /bonjour 1h0m0s"},
		{"pedro@example.test", "lang", "reply /oi 1h0m0s"},
		{"otto@example.test", "lang", "reply /plain 1h0m0s"},
		{"eve@out.test", "awaylist", "-"},
	} {
		rs, _ := ask(t, x, tt.from, tt.local)
		if len(rs) != 1 || rs[0].Channel != mail.ChannelLMTP {
			t.Errorf("%s from %q: %+v", tt.local, tt.from, rs)
			continue
		}
		got := "-"
		if a := rs[0].Autoreply; a != nil {
			got = fmt.Sprintf("%s %s/%s %s", a.Mode, a.Subject, strings.TrimSuffix(a.Text, "\n"), a.Timeout)
			if a.Only {
				got += " only"
			}
			if a.From.Local != tt.local || len(a.Me) < 3 {
				t.Errorf("%s: from %s, me %v", tt.local, a.From, a.Me)
			}
		}
		if got != tt.want {
			t.Errorf("%s from %q: %q, want %q", tt.local, tt.from, got, tt.want)
		}
	}
	// Without a pair nobody is answered, and what else there is happens.
	for local, options := range map[string][]string{"nopair": {"autoreply", "forward"}, "nopairs": {"autoreply"}} {
		away(local, options, directory.Away{Mode: "reply", Text: texts("", "out"), Hours: 1})
		d.users[local+"@example.test"][0].MailHost, d.users[local+"@example.test"][0].Forwarding = "", []string{"bob@example.test"}
	}
	for local, want := range map[string]string{"nopair": "tcp_lmtpcs pair1 bob@example.test", "nopairs": "bitbucket nopairs@example.test"} {
		if _, got := ask(t, x, "eve@out.test", local); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", local, got)
		}
	}
	// Who is written to by another name of the domain is who is meant; who has
	// the mail for everybody else is not.
	d.users["@caught.test"] = d.users["two@example.test"]
	d.users["two@alias.test"] = d.users["two@example.test"]
	d.domains["caught.test"], d.domains["alias.test"] = &directory.Domain{Name: "caught.test"}, &directory.Domain{Name: "example.test", Aliases: []string{"alias.test"}}
	for text, want := range map[string]bool{"two+work@example.test": true, "two@alias.test": true, "two+x@alias.test": true, "anybody@caught.test": false} {
		to, _ := mail.ParseAddress(text, true)
		rs, err := x.Rcpt(t.Context(), &mail.Envelope{ReversePath: mail.Address{Local: "eve", Domain: "out.test"}}, mail.Recipient{Address: to})
		if err != nil || len(rs) != 1 || rs[0].Autoreply == nil {
			t.Errorf("%s: %+v, %v", to, rs, err)
			continue
		}
		if got := slices.ContainsFunc(rs[0].Autoreply.Me, func(a mail.Address) bool { return a.Key() == to.Key() }); got != want {
			t.Errorf("%s is the person's: %v, want %v", to, got, want)
		}
	}
	// Nothing to answer and nothing else to do: accepted and dropped.
	if _, got := ask(t, x, "", "only"); !slices.Equal(got, []string{"bitbucket only@example.test"}) {
		t.Errorf("report to one who only answers: %q", got)
	}
	rs, got := ask(t, x, "eve@out.test", "fwdonly")
	if !slices.Equal(got, []string{"tcp_lmtpcs pair1 fwdonly@example.test", "tcp_lmtpcs pair1 bob@example.test"}) || !rs[0].Autoreply.Only || rs[1].Autoreply != nil {
		t.Errorf("answer and forward: %q", got)
	}
	if h := pause(d.domains["hours.test"], &directory.Away{Hours: directory.QuotaDefault}); h != 5*hour {
		t.Errorf("the domain's hours: %s", h)
	}
}

// TestInboxOnly: a site's own way to the pairs, without the folder, has what is
// sent to a subaddress in INBOX.
func TestInboxOnly(t *testing.T) {
	for want, options := range map[string][]string{
		"tcp_lmtpcs pair1 ann@example.test/work": nil,
		"tcp_lmtpcs pair1 ann@example.test":      {`#*mailbox=@$X.LMTP:$M%$\$2I@lmtpcs-daemon`},
	} {
		x, err := New(Config{Directory: fixture(), Pair: Pairs("pair1"), Options: options})
		if err != nil {
			t.Fatal(err)
		}
		rs, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: mail.Address{Local: "ann+work", Domain: "example.test"}})
		if got := show(rs); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q, %v, want %s", got, err, want)
		}
	}
}
