package drill

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

const (
	// watchEvery is the time between two looks at a node.
	watchEvery = 100 * time.Millisecond
	// watchWithin is the time of a node to answer a look.
	watchWithin = 500 * time.Millisecond
	// stale is the age from which an answer says nothing about now.
	stale = time.Second
	// maxSamples bounds what a watch keeps.
	maxSamples = 100_000
)

// watch asks every node all the time who serves and how long queues are.
type watch struct {
	pair  string
	nodes []Node

	mu     sync.Mutex
	last   map[string]look
	spans  []Span
	queues []QueueSample
}

// look is the last answer of a node.
type look struct {
	at      time.Time
	up      bool
	state   string
	serving bool
	term    uint64
	queued  int
}

func newWatch(t Target, pair string) *watch {
	return &watch{pair: pair, nodes: t.Nodes(), last: map[string]look{}}
}

// run asks until ctx ends. changed is told when another node serves.
func (w *watch) run(ctx context.Context, changed func(node string)) {
	var wg sync.WaitGroup
	for _, n := range w.nodes {
		if n.Role == RoleWitness || n.Pair != "" && n.Pair != w.pair {
			continue
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				w.note(n.Name, w.look(ctx, &n))
				select {
				case <-ctx.Done():
				case <-time.After(watchEvery):
				}
			}
		})
	}
	was := ""
	for ctx.Err() == nil {
		if now := w.sum(time.Now()); now != was {
			was = now
			changed(now)
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchEvery):
		}
	}
	wg.Wait()
}

func (w *watch) look(ctx context.Context, n *Node) look {
	ctx, cancel := context.WithTimeout(ctx, watchWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	l := look{at: time.Now(), up: err == nil, state: s.State}
	for _, g := range s.Groups {
		if g.Pair == w.pair {
			l.serving, l.term = g.Serving, g.Term
		}
	}
	if s.Queue != nil {
		l.queued = s.Queue.Queued
	}
	return l
}

func (w *watch) note(name string, l look) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[name] = l
}

// sum puts the last answers together: who serves, by the newest term, and how
// much is queued.
func (w *watch) sum(now time.Time) (serving string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	term, queued := uint64(0), 0
	for name, l := range w.last {
		if !l.up || now.Sub(l.at) > stale {
			continue
		}
		queued += l.queued
		if l.serving && (l.term > term || serving == "") {
			serving, term = name, l.term
		}
	}
	if len(w.queues) < maxSamples {
		w.queues = append(w.queues, QueueSample{now, queued})
	}
	if serving == "" {
		return ""
	}
	if n := len(w.spans); n > 0 && w.spans[n-1].Node == serving && now.Sub(w.spans[n-1].To) < 3*watchEvery {
		w.spans[n-1].To = now
	} else if n < maxSamples {
		w.spans = append(w.spans, Span{serving, now, now})
	}
	return serving
}

// results are the spans and the queue sizes, thinned to those that differ.
func (w *watch) results() ([]Span, []QueueSample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var queues []QueueSample
	for i, q := range w.queues {
		if i == 0 || i == len(w.queues)-1 || q.Queued != w.queues[i-1].Queued || q.Queued != w.queues[i+1].Queued {
			queues = append(queues, q)
		}
	}
	return slices.Clone(w.spans), queues
}

// group is what the nodes of a pair say of it at one moment.
type group struct {
	status map[string]admin.GroupStatus // of those that answer
	state  map[string]string            // of the node
}

// serving is the node that serves by the newest term, "" when none does.
func (g *group) serving() string {
	name, term := "", uint64(0)
	for n, s := range g.status {
		if s.Serving && (s.Term > term || name == "") {
			name, term = n, s.Term
		}
	}
	return name
}

// askWithin bounds one question to a node.
const askWithin = time.Second

// ask asks every node of the pair at the same time, and every relay when pair
// is "".
func ask(ctx context.Context, t Target, pair string) *group {
	g := &group{map[string]admin.GroupStatus{}, map[string]string{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range t.Nodes() {
		if n.Pair != pair {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			g.state[n.Name] = strings.ToLower(s.State)
			for _, st := range s.Groups {
				if st.Pair == pair {
					g.status[n.Name] = st
				}
			}
		})
	}
	wg.Wait()
	return g
}
