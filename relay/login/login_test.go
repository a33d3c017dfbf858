package login_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
)

const domain = "example.org"

// tree has three users: one who may log in on a pair that is known, one on a
// pair that is not, one who is inactive.
func tree() []byte {
	text := string(fixture.Tree(domain, 4, 1))
	text = strings.Replace(text, "mail: u0003@"+domain+"\nmailHost: pair1", "mail: u0003@"+domain+"\nmailHost: elsewhere", 1)
	i := strings.Index(text, "uid: u0004")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active", "inetUserStatus: inactive", 1)
	return []byte(text)
}

func TestLogin(t *testing.T) {
	server := dirtest.Embedded(t, tree())
	c := &login.Checker{
		Directory: dirtest.Dial(t, server),
		Pair:      func(host string) (string, bool) { return host, host == "pair1" },
	}
	ctx := context.Background()
	for name, tt := range map[string]struct {
		user, password, authz string
		want                  string // account, "refused" or "temporary"
	}{
		"by address":           {"u0001@example.org", "secret", "", "u0001@example.org"},
		"by uid":               {"U0001", "secret", "", "u0001@example.org"},
		"wrong password":       {"u0001", "Secret", "", "refused"},
		"empty password":       {"u0001", "", "", "refused"},
		"nobody":               {"u9999", "secret", "", "refused"},
		"a list":               {"list@example.org", "secret", "", "refused"},
		"inactive":             {"u0004", "secret", "", "refused"},
		"for itself":           {"u0001", "secret", "u0001@example.org", "u0001@example.org"},
		"for another":          {"u0001", "secret", "u0002", "refused"},
		"for nobody":           {"u0001", "secret", "u9999", "refused"},
		"pair that is unknown": {"u0003", "secret", "", "temporary"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := c.Proxy(ctx, auth.Credentials{Mechanism: auth.Plain, User: tt.user, Password: tt.password, Authz: tt.authz}, proxy.Client{})
			got := u.Account
			switch {
			case errors.Is(err, proxy.ErrRefused):
				got = "refused"
			case err != nil:
				got = "temporary"
			case u.Pair != "pair1":
				t.Errorf("pair %q", u.Pair)
			}
			if got != tt.want {
				t.Errorf("proxy: %q, %v, want %q", got, err, tt.want)
			}
			account, err := c.Password(ctx, tt.user, tt.password, tt.authz)
			switch {
			case tt.want == "refused":
				if !mail.Permanent(err) {
					t.Errorf("submission: %q, %v", account, err)
				}
			case tt.want == "temporary": // submission needs no pair
				if account != "u0003@example.org" || err != nil {
					t.Errorf("submission: %q, %v", account, err)
				}
			case account != tt.want || err != nil:
				t.Errorf("submission: %q, %v", account, err)
			}
		})
	}
	if account, err := c.Certificate(ctx, nil, ""); !mail.Permanent(err) {
		t.Errorf("no certificate: %q, %v", account, err)
	}
	server.Stop()
	if _, err := c.Password(ctx, "u0002", "secret", ""); err == nil || mail.Permanent(err) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := c.Proxy(ctx, auth.Credentials{Mechanism: auth.Plain, User: "u0002", Password: "secret"}, proxy.Client{}); err == nil || errors.Is(err, proxy.ErrRefused) {
		t.Errorf("no directory: %v", err)
	}
}
