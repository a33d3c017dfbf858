package ldap

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// maxEmpty is how many pages in a row may be empty and not the last one.
const maxEmpty = 100

// stopped is what the asker ended a stream with. It is nothing that the server
// has said, so nothing in it is looked at on the way out.
type stopped struct{ err error }

func (e *stopped) Error() string { return "stopped" }

// broken is what ended a stream after entries had been told: nobody can go on
// where it was, not at another server either.
type broken struct{ err error }

func (e *broken) Error() string { return "in the middle: " + e.err.Error() }

// unfinished reports whether a stream ended before the server had said all.
func unfinished(err error) bool {
	var s *stopped
	var b *broken
	return errors.As(err, &s) || errors.As(err, &b)
}

// stream asks for q page by page and calls each with every entry; n is how many
// it was called with. No more than a page is held. An error of each ends it and
// is returned. Every other error says that the answer is not whole; once each
// was called it is directory.ErrIncomplete.
func (d *Directory) stream(ctx context.Context, q *request, each func(r *result) error) (n int, err error) {
	question := &query{op: "page", paged: true}
	question.ask = func(l *line) error {
		page, empty := *q, 0
		for {
			found, cookie, err := l.do(ctx, &page)
			if err != nil && n > 0 {
				return &broken{err}
			}
			if err != nil {
				return err
			}
			start := time.Now()
			for i := range found {
				n++
				if err := each(&found[i]); err != nil {
					return &stopped{err}
				}
			}
			question.paused += time.Since(start)
			if len(cookie) == 0 {
				return nil
			}
			if empty++; len(found) > 0 {
				empty = 0
			}
			if empty > maxEmpty {
				return &broken{errors.New("page after page is empty")}
			}
			page.cookie = cookie
		}
	}
	err = d.pool.do(ctx, question)
	var s *stopped
	var b *broken
	switch {
	case errors.As(err, &s):
		return n, s.err
	case errors.As(err, &b) && ctx.Err() != nil:
		return n, fmt.Errorf("%w: %w", directory.ErrIncomplete, ctx.Err())
	case errors.As(err, &b):
		return n, fmt.Errorf("%w: %v", directory.ErrIncomplete, b.err)
	case err == nil && n == 0:
		// 389 Directory Server says that a paged search below nothing has found
		// nothing. A list must not lose its members by that.
		_, err = d.search(ctx, q.base, ldap.ScopeBaseObject, anything, []string{"1.1"}, 1)
	}
	return n, classify(err)
}

// errEnough ends a stream whose asker wants no more.
var errEnough = errors.New("enough")

// Search implements directory.Directory, in pages. A name in the URL that does
// not exist is ErrNotFound; an empty one means the base.
func (d *Directory) Search(ctx context.Context, url string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		err := d.selected(ctx, url, limit, func(e *directory.Entry) bool { return yield(e, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

func (d *Directory) selected(ctx context.Context, url string, limit int, take func(*directory.Entry) bool) error {
	u, filter, err := d.usable(url)
	if err != nil {
		return err
	}
	if u.DN == "" {
		u.DN = d.cfg.Base
	}
	q := request{
		base: u.DN, filter: filter, attrs: d.wanted(u), page: min(d.cfg.PageSize, max(limit, 0)+1),
		scope: [...]int{ldap.ScopeBaseObject, ldap.ScopeSingleLevel, ldap.ScopeWholeSubtree}[u.Scope],
	}
	taken := 0
	done := watch(ctx, u.DN, q.scope, u.Filter)
	n, err := d.stream(ctx, &q, func(r *result) error {
		if taken++; taken > limit {
			return fmt.Errorf("%w (%d)", directory.ErrTooMany, limit)
		}
		if !take(d.read(r)) {
			return errEnough
		}
		return nil
	})
	done(n, err)
	switch {
	case err == nil || errors.Is(err, errEnough):
		return err
	case n == 0:
		err = d.missing(ctx, err)
	}
	return d.note("search "+url, err)
}

// maxWanted bounds the attributes that a URL may ask for beside the usual ones.
const maxWanted = 8

// wanted are the attributes to ask for: the usual ones, and those that the URL
// names. Nobody gets passwords by a URL.
func (d *Directory) wanted(u *directory.URL) []string {
	attrs := d.entry
	for _, a := range u.Attributes {
		known := slices.ContainsFunc(attrs, func(b string) bool { return strings.EqualFold(a, b) })
		if !known && attribute(a) && !directory.Secret(a) && len(attrs) < len(d.entry)+maxWanted {
			attrs = append(attrs[:len(attrs):len(attrs)], a)
		}
	}
	return attrs
}

// attribute reports whether s is the description of one attribute (RFC 4512
// 2.5), so that "*" and "+" are none.
func attribute(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '.' || c == ';')) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// usable is an LDAP URL taken apart, and its filter in BER.
func (d *Directory) usable(url string) (*directory.URL, []byte, error) {
	u, err := directory.ParseURL(url)
	if err != nil {
		return nil, nil, err
	}
	if u.Host != "" && !slices.Contains(d.hosts, u.Host) {
		return nil, nil, fmt.Errorf("%w: host %q is not configured", directory.ErrURL, u.Host)
	}
	if u.DN == "" && d.cfg.Base == "" {
		return nil, nil, fmt.Errorf("%w: no name, and no base", directory.ErrURL)
	}
	if u.DN != "" {
		if err := d.reachable(u.DN); err != nil {
			return nil, nil, err
		}
	}
	filter, err := ldap.CompileFilter(u.Filter)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", directory.ErrURL, err)
	}
	return u, filter.Bytes(), nil
}

// Usable reports as directory.ErrURL an LDAP URL that Search would refuse,
// without asking a server.
func (d *Directory) Usable(url string) error {
	_, _, err := d.usable(url)
	return err
}
