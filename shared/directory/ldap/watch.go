package ldap

import (
	"context"
	"time"
)

// Asked is one query as a server got it.
type Asked struct {
	Base    string
	Scope   string // "base", "one" or "sub"
	Filter  string
	Entries int
	Took    time.Duration
	Err     error
}

type watching struct{}

// Watch returns a context by which f is told of every search that a question
// asked with it leads to, also one that a cache passes on. It may be called
// from several goroutines at once.
func Watch(ctx context.Context, f func(Asked)) context.Context {
	return context.WithValue(ctx, watching{}, f)
}

// watched reports whether somebody is to be told.
func watched(ctx context.Context) bool { return ctx.Value(watching{}) != nil }

// watch begins a query; what it returns ends it.
func watch(ctx context.Context, base string, scope int, filter string) func(entries int, err error) {
	f, ok := ctx.Value(watching{}).(func(Asked))
	if !ok {
		return unwatched
	}
	start := time.Now()
	return func(entries int, err error) {
		f(Asked{base, [...]string{"base", "one", "sub"}[scope], filter, entries, time.Since(start), err})
	}
}

func unwatched(int, error) {}
