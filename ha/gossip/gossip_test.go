package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// inBubble runs f with a cluster in memory and the default settings, in
// virtual time.
func inBubble(t *testing.T, f func(t *testing.T, c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, new(fabric))
		defer c.end()
		f(t, c)
	})
}

func TestView(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		be1, be2 := c.node("be1", tlsconf.Backend), c.node("be2", tlsconf.Backend)
		wit := c.node("wit", tlsconf.Witness)
		cfg := c.config("relay1", tlsconf.RelayMX, tlsconf.RelayProxy)
		cfg.Role = "relay"
		relay := c.start(cfg)
		for _, p := range c.all {
			agree(t, 10*time.Second, p.cfg.Name, Alive, c.all...)
		}
		be1.Announce(says("p1", true, 3))
		be2.Announce(says("p1", false, 3))
		wit.Announce(Self{Groups: []Group{{Pair: "p1", Term: 3}}})
		serving(t, time.Second, "p1", "be1", c.all...)
		within(t, 5*time.Second, "both replicas and the witness", func() bool {
			return len(relay.table.Candidates("p1")) == 2 && len(relay.find("wit").Groups) == 1
		})
		got := relay.table.Candidates("p1")[0]
		want := route.Node{
			Name: "be1", Pair: "p1", Serving: true, Term: 3, Applied: 300, Alive: true, Version: "1.0",
			Addr: map[route.Service]string{route.LMTP: "10.1.1.1:24", route.IMAP: "10.1.1.1:143"},
		}
		if !sameNode(got, want) || got.Name != want.Name {
			t.Errorf("table holds %+v, want %+v", got, want)
		}
		if m := relay.find("relay1"); m.Role != "relay" || m.Version != "1.0" {
			t.Errorf("own node is %+v", m)
		}

		// A change of who serves goes out before the next round.
		be2.Announce(says("p1", true, 4))
		if took := serving(t, time.Second, "p1", "be2", c.all...); took > 100*time.Millisecond {
			t.Errorf("change of the serving replica took %v", took)
		}
		// be1 is late to notice; its older term unseats nobody.
		s := says("p1", true, 3)
		s.Load = 0.5
		be1.Announce(s)
		within(t, 10*time.Second, "load of be1", func() bool { return relay.find("be1").Load == 0.5 })
		serving(t, 0, "p1", "be2", c.all...)

		s.Draining = true
		be1.Announce(s)
		agree(t, time.Second, "be1", Draining, c.all...)
		if n := relay.table.Candidates("p1")[1]; !n.Draining || !n.Alive {
			t.Errorf("draining replica in the table: %+v", n)
		}
	})
}

func TestDeathAndGoodbye(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		be1, be2 := c.node("be1", tlsconf.Backend), c.node("be2", tlsconf.Backend)
		relay := c.node("relay1", tlsconf.RelayMX)
		be1.Announce(says("p1", true, 3))
		be2.Announce(says("p1", false, 3))
		serving(t, 10*time.Second, "p1", "be1", relay)
		agree(t, 10*time.Second, "be2", Alive, relay, be1)

		c.kill(be1)
		took := agree(t, time.Minute, "be1", Dead, relay, be2)
		if took < 5*time.Second {
			t.Errorf("declared dead after %v, too fast for a busy machine", took)
		}
		// Nobody else is known to serve: the last view stays in use.
		if n := relay.table.Candidates("p1")[0]; n.Name != "be1" || !n.Serving || n.Alive {
			t.Errorf("first candidate is %+v", n)
		}
		be2.Announce(says("p1", true, 4))
		serving(t, time.Second, "p1", "be2", relay)

		be2.leave(t)
		agree(t, time.Second, "be2", Left, relay)
		for _, n := range relay.table.Candidates("p1") {
			if n.Alive || n.Name == "be2" && n.Serving {
				t.Errorf("after all have gone the table holds %+v", n)
			}
		}
		if got := be2.state("be2"); got != Left {
			t.Errorf("be2 calls itself %s", got)
		}
	})
}

func TestReclaim(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay, other := c.node("relay1", tlsconf.RelayMX), c.node("relay2", tlsconf.RelayMX)
		be1 := c.node("be1", tlsconf.Backend)
		be1.Announce(says("p1", true, 3))
		serving(t, 10*time.Second, "p1", "be1", relay, other)
		old := be1.Addr()
		c.kill(be1)
		agree(t, time.Minute, "be1", Dead, relay, other)
		died := time.Now()

		again := c.node("be1", tlsconf.Backend)
		again.Announce(says("p1", true, 5))
		if again.Addr() == old {
			t.Fatal("the new node has the address of the old one")
		}
		within(t, 3*time.Minute, "be1 back", func() bool {
			m := relay.find("be1")
			return m.State == Alive && len(m.Groups) == 1 && m.Groups[0].Term == 5
		})
		if since := time.Since(died); since < 25*time.Second {
			t.Errorf("the name was taken over after %v", since)
		}
		agree(t, time.Minute, "be1", Alive, other, again)
	})
}

func TestSplitHeals(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.node("a", tlsconf.RelayMX), c.node("b", tlsconf.RelayMX)
		x, y := c.node("x", tlsconf.RelayMX), c.node("y", tlsconf.RelayMX)
		for _, p := range c.all {
			agree(t, 10*time.Second, p.cfg.Name, Alive, c.all...)
		}
		c.net.split(func(addr string) int {
			if addr == a.addr || addr == b.addr {
				return 1
			}
			return 2
		})
		agree(t, 2*time.Minute, "x", Dead, a, b)
		agree(t, 2*time.Minute, "a", Dead, x, y)
		agree(t, 0, "y", Alive, x)
		time.Sleep(10 * time.Minute) // memberlist has long given up on the other half
		x.Announce(Self{Draining: true})
		c.net.split(func(string) int { return 0 })
		agree(t, 2*time.Minute, "x", Draining, c.all...)
		agree(t, 2*time.Minute, "a", Alive, c.all...)
	})
}

// TestFormat: a node hears when another one goes to a level, and one that comes
// later hears it too.
func TestFormat(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		a, b := c.node("a", tlsconf.RelayMX), c.node("b", tlsconf.RelayMX)
		agree(t, 10*time.Second, "a", Alive, b)
		level := func(of *peer, name string) uint32 {
			for _, m := range of.Members() {
				if m.Name == name {
					return m.Format
				}
			}
			return 0
		}
		if got := level(b, "a"); got != 1 {
			t.Errorf("level %d of a node that says none", got)
		}
		a.Announce(Self{Format: 2})
		for end := time.Now().Add(10 * time.Second); level(b, "a") != 2; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the level is not told")
			}
		}
		late := c.node("late", tlsconf.RelayMX)
		agree(t, 10*time.Second, "a", Alive, late)
		if got := level(late, "a"); got != 2 {
			t.Errorf("the newcomer hears of level %d", got)
		}
	})
}

func TestManyGroups(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay, be1 := c.node("relay1", tlsconf.RelayMX), c.node("be1", tlsconf.Backend)
		agree(t, 10*time.Second, "be1", Alive, relay)
		self := Self{Services: map[string]string{"lmtp": "10.1.1.1:24"}}
		for i := range maxGroups {
			self.Groups = append(self.Groups, Group{Pair: fmt.Sprintf("pair%03d.mail.example.net", i), Term: 1})
		}
		be1.Announce(self)
		within(t, time.Second, "all groups", func() bool { return len(relay.find("be1").Groups) == maxGroups })
		moved := self
		moved.Groups = append([]Group(nil), self.Groups...)
		moved.Groups[77].Serving = true
		be1.Announce(moved)
		if took := serving(t, time.Second, moved.Groups[77].Pair, "be1", relay); took > 100*time.Millisecond {
			t.Errorf("one of many groups took %v", took)
		}
		if n := len(relay.find("be1").Groups); n != maxGroups {
			t.Errorf("%d groups left", n)
		}
		// A list that got shorter reaches the others with the next push/pull.
		moved.Groups = moved.Groups[:100]
		be1.Announce(moved)
		within(t, 2*time.Minute, "the shorter list", func() bool { return len(relay.find("be1").Groups) == 100 })
		late := c.node("relay2", tlsconf.RelayMX)
		within(t, 5*time.Second, "groups at a new node", func() bool { return len(late.find("be1").Groups) == 100 })
	})
}

func TestNewCertificate(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay, be1 := c.node("relay1", tlsconf.RelayMX), c.node("be1", tlsconf.Backend)
		third := c.node("relay2", tlsconf.RelayMX)
		be1.Announce(says("p1", false, 3))
		agree(t, 10*time.Second, "be1", Alive, relay, third)
		before := be1.store.Chain()[0]
		c.issue("be1", tlsconf.Backend)
		if err := be1.store.Reload(); err != nil {
			t.Fatal(err)
		}
		fp := tlsconf.FingerprintOf(be1.store.Chain()[0])
		if fp == tlsconf.FingerprintOf(before) {
			t.Fatal("the certificate is the old one")
		}
		for _, p := range []*peer{relay, third} {
			within(t, 10*time.Second, "the new chain", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.nodes["be1"].fullFP == fp
			})
		}
		be1.Announce(says("p1", true, 4))
		serving(t, 100*time.Millisecond, "p1", "be1", relay, third)
	})
}

func TestClockWentBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay, be1 := c.node("relay1", tlsconf.RelayMX), c.node("be1", tlsconf.Backend)
		be1.mu.Lock()
		be1.seq += uint64(time.Hour) // its clock is ahead
		be1.mu.Unlock()
		be1.Announce(says("p1", true, 3))
		serving(t, 10*time.Second, "p1", "be1", relay)
		be1.leave(t)
		agree(t, 10*time.Second, "be1", Left, relay)
		again := c.node("be1", tlsconf.Backend)
		again.Announce(says("p1", true, 4))
		within(t, 30*time.Second, "be1 heard again", func() bool {
			m := relay.find("be1")
			return m.State == Alive && len(m.Groups) == 1 && m.Groups[0].Term == 4
		})
	})
}

// TestSetJoin: a node that knows nobody is told whom to join while it runs, and is
// there at once, however long it has been alone.
func TestSetJoin(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		be1 := c.node("be1", tlsconf.Backend)
		cfg := c.config("relay1", tlsconf.RelayMX)
		cfg.Join = nil
		relay := c.start(cfg)
		time.Sleep(time.Hour)
		if relay.state("be1") != "" {
			t.Fatal("it has found who it was not told of")
		}
		relay.SetJoin([]string{be1.Addr()})
		agree(t, 2*time.Second, "be1", Alive, relay)
		agree(t, 2*time.Second, "relay1", Alive, be1)
	})
}

func TestKeyRotation(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		be1, relay := c.node("be1", tlsconf.Backend), c.node("relay1", tlsconf.RelayMX)
		agree(t, 10*time.Second, "be1", Alive, relay)
		oldKey, newKey := c.keys[0], NewKey()
		term := uint64(1)
		for _, keys := range [][][]byte{{oldKey, newKey}, {newKey, oldKey}, {newKey}} {
			for _, p := range []*peer{be1, relay} {
				if err := p.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
				// Also while only one of them has changed.
				term++
				be1.Announce(says("p1", true, term))
				within(t, time.Second, "news", func() bool {
					n := relay.table.Candidates("p1")
					return len(n) == 1 && n[0].Term == term
				})
			}
		}
		c.keys = [][]byte{newKey}
		late := c.node("relay2", tlsconf.RelayMX)
		serving(t, 10*time.Second, "p1", "be1", late)
		before := refused(errKey)
		c.keys = [][]byte{oldKey}
		stranger := c.node("relay3", tlsconf.RelayMX)
		time.Sleep(time.Minute)
		if len(stranger.Members()) != 1 || relay.state("relay3") != "" {
			t.Error("a node with the old key is in")
		}
		if refused(errKey) == before {
			t.Error("the old key was not counted")
		}
	})
}

func TestOtherClusterIsIgnored(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay := c.node("relay1", tlsconf.RelayMX)
		cfg := c.config("relay2", tlsconf.RelayMX)
		tune := cfg.tune
		cfg.tune = func(mc *memberlist.Config) { tune(mc); mc.Label = "another" }
		other := c.start(cfg)
		time.Sleep(time.Minute)
		if len(relay.Members()) != 1 || len(other.Members()) != 1 {
			t.Errorf("members %v and %v", relay.Members(), other.Members())
		}
	})
}

func TestRogueCA(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		relay, be1 := c.node("relay1", tlsconf.RelayMX), c.node("be1", tlsconf.Backend)
		be1.Announce(says("p1", true, 3))
		serving(t, 10*time.Second, "p1", "be1", relay)
		before := refused(errCertificate)
		rogues := newCluster(t, c.net)
		rogues.keys, rogues.all = c.keys, []*peer{relay}
		rogue := rogues.node("be2", tlsconf.Backend)
		rogue.Announce(says("p1", true, 9))
		time.Sleep(2 * time.Minute)
		if relay.state("be2") != "" || be1.state("be2") != "" {
			t.Error("a node of another CA is listed")
		}
		serving(t, 0, "p1", "be1", relay)
		if refused(errCertificate) == before {
			t.Error("its certificate was not counted")
		}
		rogue.leave(t)
	})
}

// TestLoopback runs on real sockets.
func TestLoopback(t *testing.T) {
	c := newCluster(t, nil)
	defer c.end()
	be1, be2 := c.node("be1", tlsconf.Backend), c.node("be2", tlsconf.Backend)
	cfg := c.config("relay1", tlsconf.RelayMX)
	cfg.Join = []string{strings.Replace(be1.Addr(), "127.0.0.1", "localhost", 1)}
	relay := c.start(cfg)
	for _, p := range c.all {
		agree(t, 20*time.Second, p.cfg.Name, Alive, c.all...)
	}
	be1.Announce(says("p1", true, 3))
	be2.Announce(says("p1", false, 3))
	serving(t, 10*time.Second, "p1", "be1", c.all...)
	be2.Announce(says("p1", true, 4))
	serving(t, 10*time.Second, "p1", "be2", c.all...)

	c.keys = [][]byte{NewKey()}
	before := refused(errKey)
	stranger := c.node("relay9", tlsconf.RelayMX)
	within(t, 10*time.Second, "the wrong key counted", func() bool { return refused(errKey) > before })
	if len(stranger.Members()) != 1 || relay.state("relay9") != "" {
		t.Error("a node with another key is in")
	}
	be1.leave(t)
	agree(t, 10*time.Second, "be1", Left, be2, relay)
	// be2 dies: its sockets close without a word.
	if err := be2.wire.Shutdown(); err != nil {
		t.Error(err)
	}
	agree(t, 60*time.Second, "be2", Dead, relay)
}

func TestRunWithEndedContext(t *testing.T) {
	c := newCluster(t, nil)
	g, err := New(c.config("relay1", tlsconf.RelayMX))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := g.Run(ctx); err == nil {
		t.Error("a second Run is allowed")
	}
	// The port is free again.
	cfg := c.config("relay1", tlsconf.RelayMX)
	cfg.Listen = g.Addr()
	g, err = New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestConfigRefused(t *testing.T) {
	c := newCluster(t, nil)
	good := c.config("relay1", tlsconf.RelayMX)
	taken := c.node("relay2", tlsconf.RelayMX)
	defer c.end()
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no certificate":    {func(c *Config) { c.Identity = nil }, "no certificate"},
		"no keys":           {func(c *Config) { c.Keys = nil }, "at least one"},
		"short key":         {func(c *Config) { c.Keys = [][]byte{make([]byte, 16)} }, "key 1 has 16 octets"},
		"another cluster":   {func(c *Config) { c.Cluster = "other" }, `cluster "other"`},
		"another name":      {func(c *Config) { c.Name = "be1" }, `node "be1"`},
		"role not held":     {func(c *Config) { c.Role = "backend" }, "role: relay1 claims"},
		"one role not held": {func(c *Config) { c.Role = "relay-mx,witness" }, "role: relay1 claims"},
		"no version":        {func(c *Config) { c.Version = "" }, "version"},
		"no port":           {func(c *Config) { c.Listen = "127.0.0.1" }, "listen address"},
		"port in use":       {func(c *Config) { c.Listen = taken.Addr() }, "in use"},
		"advertise nowhere": {func(c *Config) { c.Advertise = "0.0.0.0:7946" }, "others cannot reach"},
		"listen on all v6":  {func(c *Config) { c.Listen = "[::]:0" }, "give the address"},
		"interval":          {func(c *Config) { c.Interval = time.Hour }, "interval"},
	} {
		cfg := good
		tt.change(&cfg)
		g, err := New(cfg)
		if err == nil {
			t.Errorf("%s: accepted", name)
			_ = g.list.Shutdown()
			continue
		}
		if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestSettings(t *testing.T) {
	g := &Gossip{cfg: Config{Interval: DefaultInterval}, log: slog.New(slog.DiscardHandler)}
	mc := g.settings()
	if mc.DeadNodeReclaimTime != 30*time.Second || mc.ProbeTimeout != time.Second || mc.ProbeInterval != 2*time.Second ||
		!mc.GossipVerifyIncoming || !mc.GossipVerifyOutgoing {
		t.Errorf("settings: %+v", mc)
	}
}
