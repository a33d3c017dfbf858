package drill

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// Roles of nodes.
const (
	RoleRelay   = "relay"
	RoleData    = "data"
	RoleWitness = "witness"
)

// Node is a process of the cluster under test.
type Node struct {
	Name  string
	Role  string
	Pair  string        // of a replica
	SMTP  string        // of a relay
	IMAPS string        // of a relay
	Admin *admin.Client // closed by the target
}

// User is somebody with a mailbox.
type User struct{ Login, Password, Address, Pair string }

// Kind is something that can be done to a cluster.
type Kind string

// The kinds. Each fault has one that takes it back.
const (
	Kill         Kind = "kill"  // SIGKILL, and it stays down
	Stop         Kind = "stop"  // SIGTERM, and it stays down
	Start        Kind = "start" // after Kill or Stop
	Pause        Kind = "pause" // SIGSTOP
	Resume       Kind = "resume"
	Cut          Kind = "cut" // packets between Node and Peers are lost
	CutOneWay    Kind = "cut-one-way"
	Vanish       Kind = "vanish" // packets from Ports of users' machines to Node are lost
	Mend         Kind = "mend"   // every cut
	DirectoryOff Kind = "directory-off"
	DirectoryOn  Kind = "directory-on"
	FillDisk     Kind = "fill-disk"
	FreeDisk     Kind = "free-disk"
	SlowDisk     Kind = "slow-disk"      // every write and flush waits
	ReadOnlyDisk Kind = "read-only-disk" // the file system takes no more writes
	FailDisk     Kind = "fail-disk"      // flushes and all else fail with an I/O error
	HangDisk     Kind = "hang-disk"      // no write and no flush returns
	PowerCut     Kind = "power-cut"      // the process is gone and with it what was never flushed
	MendDisk     Kind = "mend-disk"      // the node runs again, on the disk as it is after a check
	LimitMemory  Kind = "limit-memory"   // the kernel kills the node when it wants more than it has
	FreeMemory   Kind = "free-memory"
	DNSOff       Kind = "dns-off"
	DNSOn        Kind = "dns-on"
	GossipOff    Kind = "gossip-off" // no packet of gossip arrives at Node; "": anywhere
	GossipOn     Kind = "gossip-on"
	SkewClock    Kind = "skew-clock" // by Action.By
	SetClock     Kind = "set-clock"  // right again
	ExpireCert   Kind = "expire-cert"
	RenewCert    Kind = "renew-cert"
	Upgrade      Kind = "upgrade"    // every node whose role is Action.Node, to the other release
	Rollback     Kind = "rollback"   // to the one before
	MoveUsers    Kind = "move-users" // to another pair, see Mover
	Transfer     Kind = "transfer"   // of a pair, by the admin API
	Drain        Kind = "drain"      // of a node, by the admin API
	Undrain      Kind = "undrain"
)

// inverse says what takes a fault back.
var inverse = map[Kind]Kind{
	Kill: Start, Stop: Start, Pause: Resume, Cut: Mend, CutOneWay: Mend, Vanish: Mend, DirectoryOff: DirectoryOn, FillDisk: FreeDisk, Drain: Undrain,
	SlowDisk: MendDisk, ReadOnlyDisk: MendDisk, FailDisk: MendDisk, HangDisk: MendDisk, PowerCut: MendDisk, LimitMemory: FreeMemory, DNSOff: DNSOn, GossipOff: GossipOn,
	SkewClock: SetClock, ExpireCert: RenewCert, Upgrade: Rollback,
}

// IsFault reports whether k is a fault, which has a kind that takes it back.
func IsFault(k Kind) bool { return inverse[k] != "" }

// Kinds lists every kind.
func Kinds() []Kind {
	return []Kind{
		Kill, Stop, Start, Pause, Resume, Cut, CutOneWay, Vanish, Mend, DirectoryOff, DirectoryOn, DNSOff, DNSOn, GossipOff, GossipOn,
		FillDisk, FreeDisk, SlowDisk, ReadOnlyDisk, FailDisk, HangDisk, PowerCut, MendDisk, LimitMemory, FreeMemory, SkewClock, SetClock, ExpireCert, RenewCert,
		Upgrade, Rollback, MoveUsers, Transfer, Drain, Undrain,
	}
}

// Action is something done to one node.
type Action struct {
	Kind  Kind
	Node  string
	Peers []string      // of a cut; with CutOneWay, packets from Peers to Node are lost, the others pass
	Ports []int         // of Vanish
	By    time.Duration // of SkewClock
}

func (a Action) String() string {
	s := string(a.Kind)
	if a.Node != "" {
		s += " " + a.Node
	}
	if len(a.Peers) > 0 {
		s += " from " + strings.Join(a.Peers, ", ")
	}
	if len(a.Ports) > 0 {
		s += fmt.Sprintf(" with %d connections", len(a.Ports))
	}
	if a.By != 0 {
		s += " by " + a.By.String()
	}
	return s
}

// Target is the cluster under test. Its methods may be called at once.
type Target interface {
	// Title says what it is, for the report.
	Title() string
	Nodes() []Node
	Users() []User
	// TLS is for the relays' IMAP ports.
	TLS() *tls.Config
	// Dial connects to an address of a relay as a user's machine would.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Can returns nil or why a kind is not possible here. Transfer, Drain and
	// Undrain go by the admin API; a target only says whether they are allowed. One
	// that can MoveUsers is a Mover.
	Can(k Kind) error
	// Do does it and returns when it is done. It is called neither for
	// Transfer and MoveUsers nor for Drain and Undrain.
	Do(ctx context.Context, a Action) error
	// Real looks, by other means than those of Do, whether a fault is there,
	// and says what it saw.
	Real(ctx context.Context, a Action) (saw string, err error)
}

// Elsewhere is a target with a server of its own on the other side of the
// Internet, found by DNS.
type Elsewhere interface {
	// Submission is where users' programs bring their mail.
	Submission() (addr string)
	// Elsewhere is a recipient there; texts that have arrived for it are in the
	// order of their arrival.
	Elsewhere() (address string, texts []string)
}

func byRole(t Target, pair string, roles ...string) (names []string) {
	for _, n := range t.Nodes() {
		if slices.Contains(roles, n.Role) && (pair == "" || n.Pair == pair) {
			names = append(names, n.Name)
		}
	}
	return names
}

// pairsOf lists the pairs of a target.
func pairsOf(t Target) (pairs []string) {
	for _, n := range t.Nodes() {
		if n.Pair != "" && !slices.Contains(pairs, n.Pair) {
			pairs = append(pairs, n.Pair)
		}
	}
	return pairs
}
