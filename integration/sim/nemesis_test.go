package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// plan is what a run is made of.
type plan struct {
	sessions, mailboxes int
	mailers             int
	faults              time.Duration // how long faults begin
	only                string        // this kind of fault only
}

// nemesis makes faults, one after the other and some at a time.
type nemesis struct {
	w   *world
	rng *rand.Rand
}

// fault is a kind of fault. It begins at once and ends by itself, after for.
type fault struct {
	name   string
	weight int
	begin  func(n *nemesis, for_ time.Duration)
}

var faults = []fault{
	{"isolation", 3, (*nemesis).isolate},
	{"cut", 3, (*nemesis).cut},
	{"one-way cut", 3, (*nemesis).oneWay},
	{"bad links", 2, (*nemesis).badLinks},
	{"kill", 3, (*nemesis).kill},
	{"power cut", 3, (*nemesis).powerCut},
	{"site power cut", 1, (*nemesis).sitePowerCut},
	{"stop", 2, (*nemesis).stop},
	{"transfer", 2, (*nemesis).transfer},
	{"freeze", 3, (*nemesis).freeze},
	{"slow disk", 2, (*nemesis).slowDisk},
	{"failing flush", 1, (*nemesis).failFlush},
	{"full disk", 2, (*nemesis).fullDisk},
	{"clock", 1, (*nemesis).clock},
	{"rows written", 2, (*nemesis).flushRows},
	{"relay down", 2, (*nemesis).relayDown},
}

func (n *nemesis) run(plan plan) {
	kinds, total := faults, 0
	if plan.only != "" {
		kinds = slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return f.name != plan.only })
	}
	for _, f := range kinds {
		total += f.weight
	}
	for end := time.Now().Add(plan.faults); time.Now().Before(end); {
		time.Sleep(time.Duration(100+n.rng.IntN(1500)) * time.Millisecond)
		k := n.rng.IntN(total)
		for _, f := range kinds {
			if k -= f.weight; k < 0 {
				n.w.count("fault: " + f.name)
				f.begin(n, time.Duration(50+n.rng.IntN(3000))*time.Millisecond)
				break
			}
		}
	}
}

func (n *nemesis) member() *node { return n.w.nodes[members[n.rng.IntN(len(members))]] }

// data chooses a data replica, the one that serves more often than not.
func (n *nemesis) data() *node {
	name := n.w.serving()
	if k := n.rng.IntN(6); k < 2 || name == "" {
		name = members[k%2]
	}
	return n.w.nodes[name]
}

// after ends a fault later.
func (n *nemesis) after(d time.Duration, f func()) {
	n.w.wg.Go(func() {
		time.Sleep(d)
		f()
	})
}

// hosts are those between which links can fail.
func (n *nemesis) hosts() []string { return append(slices.Clone(members), relayNames...) }

// fail edits links for a time.
func (n *nemesis) fail(d time.Duration, what string, begin, end func(*link), links ...[2]string) {
	n.w.note("%s of %v for %v", what, links, d)
	edit := func(f func(*link)) {
		n.w.net.change(func() {
			for _, k := range links {
				f(n.w.net.link(k[0], k[1]))
			}
		})
	}
	edit(begin)
	n.after(d, func() {
		n.w.note("end of %s of %v", what, links)
		edit(end)
	})
}

func down(l *link) { l.cut = true }
func up(l *link)   { l.cut = false }

func (n *nemesis) isolate(d time.Duration) {
	name := n.member().peer.Name
	if n.rng.IntN(2) == 0 {
		name = n.data().peer.Name
	}
	var links [][2]string
	for _, o := range n.hosts() {
		if o != name {
			links = append(links, [2]string{name, o}, [2]string{o, name})
		}
	}
	n.fail(d, "isolation", down, up, links...)
}

func (n *nemesis) two() (string, string) {
	p := n.rng.Perm(len(members))
	return members[p[0]], members[p[1]]
}

func (n *nemesis) cut(d time.Duration) {
	a, b := n.two()
	n.fail(d, "cut", down, up, [2]string{a, b}, [2]string{b, a})
}

func (n *nemesis) oneWay(d time.Duration) {
	a, b := n.two()
	links := [][2]string{{a, b}}
	if n.rng.IntN(3) == 0 { // it hears all and is heard by nobody
		links = nil
		for _, o := range n.hosts() {
			if o != a {
				links = append(links, [2]string{a, o})
			}
		}
	}
	n.fail(d, "one-way cut", down, up, links...)
}

func (n *nemesis) badLinks(d time.Duration) {
	bad := link{
		delay:  time.Duration(1+n.rng.IntN(60)) * time.Millisecond,
		jitter: time.Duration(1+n.rng.IntN(120)) * time.Millisecond, loss: float64(n.rng.IntN(20)) / 100,
	}
	var links [][2]string
	for _, a := range n.hosts() {
		for _, b := range n.hosts() {
			if a != b && n.rng.IntN(2) == 0 {
				links = append(links, [2]string{a, b})
			}
		}
	}
	n.fail(d, "bad links", func(l *link) { l.delay, l.jitter, l.loss = bad.delay, bad.jitter, bad.loss },
		func(l *link) { l.delay, l.jitter, l.loss = 100*time.Microsecond, 100*time.Microsecond, 0 }, links...)
}

// again starts a node later.
func (n *nemesis) again(o *node, d time.Duration) {
	n.after(d, func() {
		n.w.note("%s starts", o.peer.Name)
		o.start()
	})
}

func (n *nemesis) kill(d time.Duration) {
	o := n.member()
	if n.rng.IntN(2) == 0 {
		o = n.data()
	}
	n.w.note("%s is killed, for %v", o.peer.Name, d)
	o.kill(loseNothing, false)
	n.again(o, d)
}

func (n *nemesis) powerCut(d time.Duration) {
	o := n.member()
	if n.rng.IntN(2) == 0 {
		o = n.data()
	}
	n.w.note("%s loses power, for %v", o.peer.Name, d)
	o.kill(n.lost(), true)
	n.again(o, d)
}

// lost chooses what a power cut leaves.
func (n *nemesis) lost() uint64 {
	if n.rng.IntN(3) == 0 {
		return loseUnsynced
	}
	return 2 + n.rng.Uint64N(1<<40)
}

func (n *nemesis) sitePowerCut(d time.Duration) {
	n.w.note("all lose power, for %v", d)
	for _, name := range members {
		o := n.w.nodes[name]
		o.kill(n.lost(), true)
		n.again(o, d+time.Duration(n.rng.IntN(1000))*time.Millisecond)
	}
}

func (n *nemesis) stop(d time.Duration) {
	o := n.member()
	n.w.note("%s is stopped, for %v", o.peer.Name, d)
	n.w.wg.Go(func() {
		o.stop()
		time.Sleep(d)
		n.w.note("%s starts", o.peer.Name)
		o.start()
	})
}

func (n *nemesis) transfer(d time.Duration) {
	o := n.data()
	n.w.wg.Go(func() {
		o.use(func(p *proc) {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			n.w.note("%s hands over", o.peer.Name)
			n.w.note("%s has handed over: %v", o.peer.Name, p.replica.Transfer(ctx, ""))
		})
	})
}

// freeze stops a process: nothing comes in or goes out, its disk does nothing,
// and who waits for its answer waits longer.
func (n *nemesis) freeze(d time.Duration) {
	o := n.data()
	p := o.running()
	if p == nil {
		return
	}
	n.w.note("%s is frozen, for %v", o.peer.Name, d)
	p.pause()
	p.m.stall.Store(int64(time.Hour))
	n.w.net.change(func() { n.w.net.hosts[o.peer.Name].frozen = true })
	n.after(d, func() {
		n.w.note("%s goes on", o.peer.Name)
		p.m.stall.Store(0)
		n.w.net.change(func() { n.w.net.hosts[o.peer.Name].frozen = false })
		p.resume()
	})
}

func (n *nemesis) slowDisk(d time.Duration) {
	o := n.member()
	slow := time.Duration(10+n.rng.IntN(700)) * time.Millisecond
	p := o.running()
	if p == nil {
		return
	}
	n.w.note("the disk of %s takes %v for a flush, for %v", o.peer.Name, slow, d)
	p.m.stall.Store(int64(slow))
	n.after(d, func() { p.m.stall.Store(0) })
}

func (n *nemesis) failFlush(time.Duration) {
	o := n.member()
	if p := o.running(); p != nil {
		n.w.note("the next flush of %s fails", o.peer.Name)
		p.m.failing.Store(true)
	}
}

// fullDisk lets no file grow for a time.
func (n *nemesis) fullDisk(d time.Duration) {
	o := n.member()
	p := o.running()
	if p == nil {
		return
	}
	n.w.note("the disk of %s is full, for %v", o.peer.Name, d)
	p.m.disk.files.SetCapacity(1)
	n.after(d, func() { p.m.disk.files.SetCapacity(0) })
}

// clock sets the wall clock of a node wrong.
func (n *nemesis) clock(d time.Duration) {
	o := n.data()
	skew := time.Duration(n.rng.IntN(7200)-3600) * time.Second
	p := o.running()
	if p == nil {
		return
	}
	n.w.note("the clock of %s is wrong by %v, for %v", o.peer.Name, skew, d)
	p.skew.Store(int64(skew))
	n.after(d, func() { p.skew.Store(0) })
}

// flushRows has a replica write its rows, as it does when its memory is full.
func (n *nemesis) flushRows(time.Duration) {
	o := n.data()
	n.w.wg.Go(func() {
		o.use(func(p *proc) {
			if _, err := p.machine.Flush(); err != nil && !p.dead.Load() {
				n.w.problem("%s: rows are not written: %v", o.peer.Name, err)
			}
		})
	})
}

// relayDown ends a relay's process or its power.
func (n *nemesis) relayDown(d time.Duration) {
	r := n.w.relays[n.rng.IntN(len(n.w.relays))]
	seed, power := uint64(loseNothing), n.rng.IntN(2) == 0
	if power {
		seed = n.lost()
	}
	n.w.note("%s is down for %v, power cut: %t", r.name, d, power)
	r.kill(seed, power)
	n.after(d, r.start)
}
