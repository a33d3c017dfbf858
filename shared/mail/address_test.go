package mail

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePath(t *testing.T) {
	long := strings.Repeat("x", 64)
	label := strings.Repeat("y", 63)
	for _, tt := range []struct {
		in   string
		utf8 bool
		want Address
		rest string
		err  error
	}{
		{"<>", false, Address{}, "", nil},
		{"<> SIZE=1", false, Address{}, " SIZE=1", nil},
		{"<ann@example.net>", false, Address{"ann", "example.net"}, "", nil},
		{"<Ann@Example.NET> X", false, Address{"Ann", "example.net"}, " X", nil},
		{"<a.b.c@example.net>", false, Address{"a.b.c", "example.net"}, "", nil},
		{"<!#$%&'*+-/=?^_`{|}~@example.net>", false, Address{"!#$%&'*+-/=?^_`{|}~", "example.net"}, "", nil},
		{`<"ann"@example.net>`, false, Address{"ann", "example.net"}, "", nil},
		{`<"a b"@example.net>`, false, Address{"a b", "example.net"}, "", nil},
		{`<"a> NOTIFY=NEVER"@example.net> X`, false, Address{"a> NOTIFY=NEVER", "example.net"}, " X", nil},
		{`<"a\"b\\c"@example.net>`, false, Address{`a"b\c`, "example.net"}, "", nil},
		{`<"a\b"@example.net>`, false, Address{"ab", "example.net"}, "", nil},
		{`<"@"@example.net>`, false, Address{"@", "example.net"}, "", nil},
		{`<".."@example.net>`, false, Address{"..", "example.net"}, "", nil},
		{"<ann@[192.0.2.1]>", false, Address{"ann", "[192.0.2.1]"}, "", nil},
		{"<ann@[IPv6:2001:DB8::1]>", false, Address{"ann", "[ipv6:2001:db8::1]"}, "", nil},
		{"<ann@my_host>", false, Address{"ann", "my_host"}, "", nil},
		{"<Postmaster>", false, Address{"Postmaster", ""}, "", nil},
		{`<"postmaster">`, false, Address{"postmaster", ""}, "", nil},
		{"<@a.example,@b.example:ann@example.net>", false, Address{"ann", "example.net"}, "", nil},
		{"<@[192.0.2.1]:ann@example.net>", false, Address{"ann", "example.net"}, "", nil},
		{"<user%dom@example.net>", false, Address{"user%dom", "example.net"}, "", nil},
		{"<" + long + "@example.net>", false, Address{long, "example.net"}, "", nil},
		{"<ann@" + label + ".example>", false, Address{"ann", label + ".example"}, "", nil},
		{"<änn@exämple.net>", true, Address{"änn", "exämple.net"}, "", nil},
		{`<"ä n"@exämple.net>`, true, Address{"ä n", "exämple.net"}, "", nil},

		{"", false, Address{}, "", ErrAddressSyntax},
		{"<", false, Address{}, "", ErrAddressSyntax},
		{"ann@example.net", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example.net", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example.net >", false, Address{}, "", ErrAddressSyntax},
		{"< ann@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann>", false, Address{}, "", ErrAddressSyntax},
		{"<@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example@net>", false, Address{}, "", ErrAddressSyntax},
		{"<.ann@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann.@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<a..b@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<a b@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example..net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@.example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example.net.>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@-example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example-.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@exam ple.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@exam,ple.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@[]>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@[192.0.2.1>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@[a b]>", false, Address{}, "", ErrAddressSyntax},
		{`<""@example.net>`, false, Address{}, "", ErrAddressSyntax},
		{`<"ann@example.net>`, false, Address{}, "", ErrAddressSyntax},
		{`<"ann\`, false, Address{}, "", ErrAddressSyntax},
		{`<"ann"x@example.net>`, false, Address{}, "", ErrAddressSyntax},
		{"<@a.example ann@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<@a.example,b.example:ann@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<@:ann@example.net>", false, Address{}, "", ErrAddressSyntax},
		{"<ann@example.net\xff>", true, Address{}, "", ErrAddressSyntax},
		{"<a\xc3@example.net>", true, Address{}, "", ErrAddressSyntax},

		{"<a\x00b@example.net>", false, Address{}, "", ErrAddressControl},
		{"<a\rb@example.net>", false, Address{}, "", ErrAddressControl},
		{"<a\nb@example.net>", false, Address{}, "", ErrAddressControl},
		{"<a\x7fb@example.net>", false, Address{}, "", ErrAddressControl},
		{"<\"a\x00b\"@example.net>", false, Address{}, "", ErrAddressControl},
		{"<\"a\\\nb\"@example.net>", false, Address{}, "", ErrAddressControl},
		{"<ann@exam\x00ple.net>", false, Address{}, "", ErrAddressControl},
		{"<ann@[1\x002]>", false, Address{}, "", ErrAddressControl},
		{"<a\u0085b@example.net>", true, Address{}, "", ErrAddressControl},
		{"<a\u2028b@example.net>", true, Address{}, "", ErrAddressControl},
		{"<ann@a\u2028b>", true, Address{}, "", ErrAddressControl},

		{"<" + long + "x@example.net>", false, Address{}, "", ErrAddressTooLong},
		{"<ann@" + label + "." + label + "." + label + "." + label + ">", false, Address{}, "", ErrAddressTooLong},
		{"<ann@" + label + "." + label + "." + label + "." + label + "x.example>", false, Address{}, "", ErrAddressTooLong},

		{"<änn@example.net>", false, Address{}, "", ErrAddressUTF8},
		{`<"ä"@example.net>`, false, Address{}, "", ErrAddressUTF8},
		{"<ann@exämple.net>", false, Address{}, "", ErrAddressUTF8},
	} {
		got, rest, err := ParsePath(tt.in, tt.utf8)
		if !errors.Is(err, tt.err) || got != tt.want || err == nil && rest != tt.rest {
			t.Errorf("ParsePath(%q, %v) = %+v, %q, %v; want %+v, %q, %v", tt.in, tt.utf8, got, rest, err, tt.want, tt.rest, tt.err)
		}
		if err == nil {
			again, rest, err := ParsePath(got.Path(), true)
			if err != nil || rest != "" || again != got {
				t.Errorf("%q prints as %q, which is %+v, %v", tt.in, got.Path(), again, err)
			}
		}
	}
}

func TestParseAddress(t *testing.T) {
	if a, err := ParseAddress("ann@example.net", false); err != nil || a != (Address{"ann", "example.net"}) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, s := range []string{"", "<ann@example.net>", "ann@example.net>", "ann@example.net x", "ann@example.net\n", "ann", "@a:b@c"} {
		if a, err := ParseAddress(s, true); err == nil {
			t.Errorf("ParseAddress(%q) = %+v", s, a)
		}
	}
}

func TestAddressForms(t *testing.T) {
	for _, tt := range []struct {
		a                     Address
		path, key             string
		null, post, plainText bool
	}{
		{Address{}, "<>", "@", true, false, true},
		{Address{"Ann", "example.net"}, "<Ann@example.net>", "ann@example.net", false, false, true},
		{Address{"a b", "example.net"}, `<"a b"@example.net>`, "a b@example.net", false, false, true},
		{Address{`a"\`, "example.net"}, `<"a\"\\"@example.net>`, `a"\@example.net`, false, false, true},
		{Address{"a.", "example.net"}, `<"a."@example.net>`, "a.@example.net", false, false, true},
		{Address{"POSTMASTER", ""}, "<POSTMASTER>", "postmaster@", false, true, true},
		{Address{"postmaster", "example.net"}, "<postmaster@example.net>", "postmaster@example.net", false, true, true},
		{Address{"Än", "example.net"}, "<Än@example.net>", "än@example.net", false, false, false},
		{Address{"an", "exämple.net"}, "<an@exämple.net>", "an@exämple.net", false, false, false},
	} {
		if tt.a.Path() != tt.path || tt.a.Key() != tt.key || tt.a.IsNull() != tt.null || tt.a.IsPostmaster() != tt.post || tt.a.IsASCII() != tt.plainText {
			t.Errorf("%+v: %s %s %v %v %v", tt.a, tt.a.Path(), tt.a.Key(), tt.a.IsNull(), tt.a.IsPostmaster(), tt.a.IsASCII())
		}
	}
}

// TestRoundTrip makes addresses with any printable local part: what is printed
// reads back as the same address, with nothing left over.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		local := rapid.StringMatching(`[ -~äöü€]{1,20}`).Draw(t, "local")
		domain := rapid.StringMatching(`[a-z0-9](-?[a-z0-9]){0,5}(\.[a-zü0-9]{1,8}){0,3}|\[[0-9a-f:.]{1,20}\]`).Draw(t, "domain")
		tail := rapid.StringMatching(`( [A-Z=>@"]*)?`).Draw(t, "tail")
		a := Address{local, domain}
		back, rest, err := ParsePath(a.Path()+tail, true)
		if err != nil || back != a || rest != tail {
			t.Fatalf("%+v prints as %q, which is %+v, %q, %v", a, a.Path(), back, rest, err)
		}
		if _, err := ParseAddress(a.String(), false); (err == nil) != a.IsASCII() {
			t.Fatalf("%q without UTF-8: %v", a.String(), err)
		}
	})
}

// FuzzPath: whatever is accepted is printable, within the limits, and reads
// back from print as itself.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"<>", "<a@b>", `<"a\"b c"@d.e> X=1`, "<@a,@b:c@d>", "<postmaster>", "<ä@ö>", "<a@[IPv6:::1]>", "<a\x00@b>", "<a@b\r\n>", `<"`, "<a@\xff>", `<"\>"@a>`} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, utf8OK bool) {
		a, rest, err := ParsePath(s, utf8OK)
		if err != nil {
			if a != (Address{}) {
				t.Fatalf("%q: %+v with %v", s, a, err)
			}
			return
		}
		if !strings.HasSuffix(s, rest) {
			t.Fatalf("%q leaves %q", s, rest)
		}
		p := a.Path()
		for _, r := range p {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0xfffd && !strings.Contains(s, "\ufffd") || r == 0x2028 || r == 0x2029 {
				t.Fatalf("%q prints as %q", s, p)
			}
		}
		if !utf8OK && !a.IsASCII() || len(a.Local) > MaxLocalPart || len(a.Domain) > MaxDomain || !a.IsNull() && a.Local == "" {
			t.Fatalf("%q: %+v", s, a)
		}
		back, left, err := ParsePath(p+" X", utf8OK)
		if err != nil || back != a || left != " X" {
			t.Fatalf("%q prints as %q, which is %+v, %q, %v", s, p, back, left, err)
		}
	})
}
