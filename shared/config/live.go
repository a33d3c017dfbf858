package config

import (
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
)

// Live holds the configuration in use. Readers take it whole with Current and
// keep what they took for as long as one piece of work lasts.
type Live[T Node] struct {
	file    string
	current atomic.Pointer[T]
	reload  sync.Mutex // one reload at a time
}

// NewLive begins with c, which was loaded from file.
func NewLive[T Node](file string, c *T) *Live[T] {
	l := &Live[T]{file: file}
	l.current.Store(c)
	return l
}

// Current returns the configuration in use. It must not be changed.
func (l *Live[T]) Current() *T { return l.current.Load() }

// Change is what a reload found: options that are in effect now, and options
// that keep their old value until a restart.
type Change struct {
	Applied []string
	Restart []string
}

// Reload reads the file and the environment again. Options that need a restart
// keep their old values; apply is given the new whole before it is swapped in
// and may refuse it. On an error the old configuration stays in use. Flags are
// not read again.
func (l *Live[T]) Reload(load func(file string) (*T, error), apply func(old, next *T) error) (Change, error) {
	l.reload.Lock()
	defer l.reload.Unlock()
	next, err := load(l.file)
	if err != nil {
		return Change{}, err
	}
	old := l.Current()
	var ch Change
	tier := tierOf[T]()
	for i := range Table {
		o := &Table[i]
		if o.Tier&tier == 0 || strings.Contains(o.Name, "[]") {
			continue
		}
		was, err := fieldOf(reflect.ValueOf(old).Elem(), o.Name)
		if err != nil {
			return Change{}, err
		}
		is, err := fieldOf(reflect.ValueOf(next).Elem(), o.Name)
		if err != nil {
			return Change{}, err
		}
		switch {
		case reflect.DeepEqual(was.Interface(), is.Interface()):
		case o.Reload:
			ch.Applied = append(ch.Applied, o.Name)
		default:
			ch.Restart = append(ch.Restart, o.Name)
			is.Set(was)
			keepOrigin(commonOf(next).from, commonOf(old).from, o.Name)
		}
	}
	if apply != nil {
		if err := apply(old, next); err != nil {
			return Change{}, err
		}
	}
	l.current.Store(next)
	return ch, nil
}
