package drill

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Scenario is one drill.
type Scenario struct {
	Name    string
	Summary string
	Expect  string
	Needs   []Kind        // that the target can do
	Relays  int           // at least so many
	Pairs   int           // the same
	SMTP    time.Duration // longest gap between acknowledgements
	IMAP    time.Duration // longest gap between answers to the user at work
	// Outage: the service is expected to stop; the gaps are counted from the
	// recovery on.
	Outage bool
	// Whole: no command and no message of a client fails, however short the moment.
	Whole bool
	Hold  time.Duration // the fault lasts at least so long
	Size  int           // octets of a message, when the scenario needs a size of its own
	// Sessions is how many there are at least.
	Sessions int
	Users    int  // who get mail, where the target has so many
	Idle     bool // those beside the user at work wait for news and do nothing else
	run      func(ctx context.Context, f *field) error
}

// Limits that most scenarios share. A planned change costs clients a moment, a
// crash an election, a node that answers no more a time-out first.
const (
	planned = 3 * time.Second
	crash   = 10 * time.Second
	silent  = 12 * time.Second
	none    = 3 * time.Second // "no effect", with room for a busy machine
)

// Scenarios lists all of them, in the order of `all`.
func Scenarios() []*Scenario { return slices.Clone(scenarios) }

var scenarios = []*Scenario{
	{
		Name: "kill-serving", Summary: "SIGKILL to the replica that serves",
		Expect: "the other replica serves; deliveries and changes succeed again within 10 s",
		Needs:  []Kind{Kill, Start}, SMTP: crash, IMAP: crash, run: killServing(Kill),
	},
	{
		Name: "kill-follower", Summary: "SIGKILL to the replica that follows",
		Expect: "no visible effect; the replica catches up by itself",
		Needs:  []Kind{Kill, Start}, SMTP: none, IMAP: none, run: loseOther(Kill, RoleData),
	},
	{
		Name: "kill-witness", Summary: "SIGKILL to the witness",
		Expect: "no visible effect",
		Needs:  []Kind{Kill, Start}, SMTP: none, IMAP: none, run: loseOther(Kill, RoleWitness),
	},
	{
		Name: "herd", Summary: "SIGKILL to the replica that serves while hundreds of users wait for news, whose sessions all go on at once",
		Expect: "all are back within 15 s; mail goes on at half its rate or more meanwhile; the other replica goes on serving",
		Needs:  []Kind{Kill, Start}, Sessions: 200, Idle: true, SMTP: crash, IMAP: 15 * time.Second, run: herd,
	},
	{
		Name: "kill-relay", Summary: "SIGKILL to one of the relays",
		Expect: "the others go on accepting; what it had queued is delivered after its return",
		Needs:  []Kind{Kill, Start}, Relays: 2, SMTP: none, IMAP: crash, run: loseRelay(Kill),
	},
	{
		Name: "oom-kill", Summary: "the kernel kills the replica that serves, and again whenever it wants more memory than it had",
		Expect: "the other one serves and goes on serving; the one that is killed is started each time and catches up",
		Needs:  []Kind{LimitMemory, FreeMemory}, SMTP: crash, IMAP: crash, run: oomKill,
	},
	{
		Name: "oom-kill-relay", Summary: "the kernel kills one of the relays, and again whenever it wants more memory than it had",
		Expect: "the others go on accepting; what it had queued is delivered, and no message is taken for the cause",
		Needs:  []Kind{LimitMemory, FreeMemory}, Relays: 2, SMTP: none, IMAP: crash, run: oomKillRelay,
	},
	{
		Name: "kill-all", Summary: "SIGKILL to every node of the pair at once, as when the power fails",
		Expect: "nothing is acknowledged meanwhile but what relays keep; all comes back by itself with every acknowledged message",
		Needs:  []Kind{Kill, Start}, SMTP: 15 * time.Second, IMAP: 15 * time.Second, Outage: true, run: loseAll(Kill),
	},
	{
		Name: "kill-majority", Summary: "SIGKILL to the witness, then to the replica that follows",
		Expect: "the replica that is left acknowledges nothing; service returns with one of the others",
		Needs:  []Kind{Kill, Start}, SMTP: 15 * time.Second, IMAP: 15 * time.Second, Outage: true, run: killMajority,
	},
	{
		Name: "stop-serving", Summary: "SIGTERM to the replica that serves",
		Expect: "it hands over before it ends; not one command fails",
		Needs:  []Kind{Stop, Start}, Whole: true, SMTP: planned, IMAP: planned, run: killServing(Stop),
	},
	{
		Name: "transfer", Summary: "the pair hands over, and back again",
		Expect: "not one command fails: clients wait a moment",
		Needs:  []Kind{Transfer}, Whole: true, SMTP: planned, IMAP: planned, run: transfer,
	},
	{
		Name: "pause-serving", Summary: "the replica that serves is frozen beyond its lease, then goes on",
		Expect: "the other one serves; the frozen one does not serve on when it wakes",
		Needs:  []Kind{Pause, Resume}, SMTP: silent, IMAP: silent, Hold: 3 * time.Second, run: pauseServing,
	},
	{
		Name: "pause-follower", Summary: "the replica that follows is frozen, then goes on",
		Expect: "no visible effect; it catches up",
		Needs:  []Kind{Pause, Resume}, SMTP: none, IMAP: none, Hold: 3 * time.Second, run: loseOther(Pause, RoleData),
	},
	{
		Name: "slow-serving", Summary: "the replica that serves is alive and far too slow: it gets a quarter of its time",
		Expect: "service goes on, on either replica; nothing is lost",
		Needs:  []Kind{Pause, Resume}, SMTP: silent, IMAP: silent, Hold: 5 * time.Second, run: slowServing,
	},
	{
		Name: "partition-serving", Summary: "the replica that serves is cut off from everybody",
		Expect: "it steps down by itself; the other one serves; nothing diverges",
		Needs:  []Kind{Cut, Mend}, SMTP: silent, IMAP: silent, Hold: 5 * time.Second, run: partitionServing,
	},
	{
		Name: "partition-follower", Summary: "the replica that follows is cut off from everybody",
		Expect: "no visible effect; it catches up",
		Needs:  []Kind{Cut, Mend}, SMTP: none, IMAP: none, Hold: 3 * time.Second, run: loseOther(Cut, RoleData),
	},
	{
		Name: "one-way-cut", Summary: "the replica that serves is heard by the other two nodes and does not hear them",
		Expect: "service goes on within 12 s, on whichever replica can agree with another node",
		Needs:  []Kind{CutOneWay, Mend}, SMTP: silent, IMAP: silent, Hold: 5 * time.Second, run: oneWay,
	},
	{
		Name: "dmz-cut", Summary: "the relays are cut off from the pair",
		Expect: "relays keep or refuse mail for the time being; none is lost or bounced",
		Needs:  []Kind{Cut, Mend}, SMTP: 15 * time.Second, IMAP: 20 * time.Second, Outage: true, Hold: 4 * time.Second, run: dmzCut,
	},
	{
		Name: "half-open", Summary: "users' machines vanish that are connected to a relay: nothing is heard of them, and no connection is closed",
		Expect: "the relay is rid of their sessions within 60 s; others notice nothing",
		Needs:  []Kind{Vanish, Mend}, SMTP: none, IMAP: none, run: halfOpen,
	},
	{
		Name: "away-and-back", Summary: "A goes away, B and the witness go on, B is lost, A comes back",
		Expect: "A is brought up to date from the witness before it serves; nothing is missing",
		Needs:  []Kind{Kill, Start}, SMTP: 20 * time.Second, IMAP: 20 * time.Second, run: awayAndBack,
	},
	{
		Name: "rolling-restart", Summary: "every node is restarted, one after the other",
		Expect: "clients notice a moment at each step",
		Needs:  []Kind{Stop, Start, Transfer}, Relays: 2, SMTP: planned, IMAP: 5 * time.Second, run: rollingRestart,
	},
	{
		Name: "relay-drain", Summary: "a relay is drained, restarted and used again",
		Expect: "the others take its work; its queue empties before it is stopped",
		Needs:  []Kind{Drain, Undrain, Stop, Start}, Relays: 2, SMTP: none, IMAP: 5 * time.Second, run: relayDrain,
	},
	{
		Name: "directory-outage", Summary: "the directory answers nobody for a time",
		Expect: "mail for users whom the relays know flows; others are told to try again, none is bounced",
		Needs:  []Kind{DirectoryOff, DirectoryOn}, SMTP: 5 * time.Second, IMAP: 5 * time.Second, Hold: 8 * time.Second, run: directoryOutage,
	},
	{
		Name: "disk-full", Summary: "the disk of the replica that serves is full, then has room again",
		Expect: "the other one serves, or writes are refused for the time being; nothing is damaged",
		Needs:  []Kind{FillDisk, FreeDisk}, SMTP: silent, IMAP: silent, Hold: 15 * time.Second, Size: 32 << 10, run: diskFull,
	},
	{
		Name: "slow-disk", Summary: "every write of the replica that serves waits up to two seconds",
		Expect: "it goes on slowly, notices that the other disk is faster, and hands over by itself; nothing is lost",
		Needs:  []Kind{SlowDisk, MendDisk}, SMTP: silent, IMAP: silent, Hold: 3 * time.Second, run: slowDisk,
	},
	{
		Name: "hung-disk", Summary: "the disk of the replica that serves hangs: no write returns",
		Expect: "its process ends by itself within seconds; the other one serves; it is back when the disk is mended",
		Needs:  []Kind{HangDisk, MendDisk}, SMTP: silent, IMAP: silent, Hold: 3 * time.Second, run: hungDisk,
	},
	{
		Name: "read-only-disk", Summary: "the file system of the replica that serves goes read-only",
		Expect: "its process ends at once; the other one serves; it is back when the disk is mended",
		Needs:  []Kind{ReadOnlyDisk, MendDisk}, SMTP: crash, IMAP: crash, Hold: 3 * time.Second, run: loseDisk(ReadOnlyDisk),
	},
	{
		Name: "failed-fsync", Summary: "flushes of the replica that serves fail with an I/O error",
		Expect: "its process ends at the first one and promises nothing; the other one serves",
		Needs:  []Kind{FailDisk, MendDisk}, SMTP: crash, IMAP: crash, Hold: 3 * time.Second, run: loseDisk(FailDisk),
	},
	{
		Name: "power-cut", Summary: "the replica that serves loses its power, and what it had not flushed",
		Expect: "the other one serves; it comes back from what is on its disk and catches up",
		Needs:  []Kind{PowerCut, MendDisk}, SMTP: crash, IMAP: crash, run: killServing(PowerCut),
	},
	{
		Name: "power-cut-relay", Summary: "a relay loses its power, and what it had not flushed",
		Expect: "the others go on; what it had acknowledged is on its disk and is delivered",
		Needs:  []Kind{PowerCut, MendDisk}, Relays: 2, SMTP: none, IMAP: crash, run: loseRelay(PowerCut),
	},
	{
		Name: "power-cut-pair", Summary: "every node of the pair loses its power at once, and what it had not flushed",
		Expect: "nothing is acknowledged meanwhile but what relays keep; all come back with every acknowledged message",
		Needs:  []Kind{PowerCut, MendDisk}, SMTP: 15 * time.Second, IMAP: 15 * time.Second, Outage: true, run: loseAll(PowerCut),
	},
	{
		Name: "dns-outage", Summary: "the relays get no answer from DNS",
		Expect: "mail for our users flows; mail to elsewhere is accepted, waits, and arrives once when DNS is back",
		Needs:  []Kind{DNSOff, DNSOn}, SMTP: 5 * time.Second, IMAP: none, Hold: 8 * time.Second, run: dnsOutage,
	},
	{
		Name: "gossip-dead", Summary: "no gossip reaches anybody, and the pair hands over meanwhile",
		Expect: "relays find the replica that serves by asking; clients notice a moment",
		Needs:  []Kind{GossipOff, GossipOn, Transfer}, SMTP: planned, IMAP: 5 * time.Second, run: gossipDead,
	},
	{
		Name: "user-move", Summary: "a hundred users go to another pair, which hands over meanwhile, and a relay hears nothing of it",
		Expect: "mail and logins find each user where the mailboxes are; each is closed for a second at most; all are taken back at the end",
		Needs:  []Kind{MoveUsers}, Relays: 2, Pairs: 2, Users: 100, SMTP: planned, IMAP: 5 * time.Second, run: userMove,
	},
	{
		Name: "clock-skew", Summary: "nodes disagree about the time by two hours, their clocks jump, a relay lives ten years ahead",
		Expect: "mail flows all the time; mail that waits is not given up, UIDs only grow",
		Needs:  []Kind{SkewClock, SetClock, Transfer, DNSOff, DNSOn}, Relays: 2, SMTP: planned, IMAP: silent, Hold: 6 * time.Second, run: clockSkew,
	},
	{
		Name: "cert-rotation", Summary: "every certificate is issued again, with a new key",
		Expect: "nodes use the new ones by themselves; clients notice nothing but the hand-over that proves it",
		Needs:  []Kind{RenewCert, Transfer}, Whole: true, SMTP: planned, IMAP: planned, run: certRotation,
	},
	{
		Name: "cert-expiry", Summary: "the certificate of the replica that serves runs out, and is renewed",
		Expect: "open connections go on, new ones between the tiers are refused; none is bounced; all is well when it is renewed",
		Needs:  []Kind{ExpireCert, RenewCert}, SMTP: 20 * time.Second, IMAP: 20 * time.Second, Outage: true, Hold: 5 * time.Second, run: certExpiry,
	},
	{
		Name: "rolling-upgrade", Summary: "every tier goes to another release, one after the other, and back",
		Expect: "two releases run side by side; no step silences clients for more than 5 s",
		Needs:  []Kind{Upgrade, Rollback}, Relays: 2, SMTP: 5 * time.Second, IMAP: 5 * time.Second, run: rollingUpgrade,
	},
	{
		Name: "random", Summary: "faults of every kind that the target allows, one after the other, by a seed",
		Expect: "whatever happens, nothing is lost and service returns within 15 s of each recovery",
		Needs:  []Kind{Kill, Start}, Relays: 1, SMTP: 15 * time.Second, IMAP: 20 * time.Second, run: soak,
	},
}

// Find returns the scenario called name.
func Find(name string) (*Scenario, error) {
	for _, s := range scenarios {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no scenario %q", name)
}

// Possible returns nil or why the target cannot do the scenario.
func (s *Scenario) Possible(t Target) error {
	for _, k := range s.Needs {
		if err := t.Can(k); err != nil {
			return err
		}
	}
	if n := len(byRole(t, "", RoleRelay)); n < s.Relays {
		return fmt.Errorf("%d relays are too few: it needs %d", n, s.Relays)
	}
	if n := len(pairsOf(t)); n < s.Pairs {
		return fmt.Errorf("%d pairs are too few: it needs %d", n, s.Pairs)
	}
	return nil
}
