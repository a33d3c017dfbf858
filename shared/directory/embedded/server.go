package embedded

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes a server. Zero limits take the defaults named.
type Config struct {
	// LDIF is the tree to begin with. With a Journal that exists it is ignored:
	// the journal is the truth.
	LDIF []byte
	// Journal is the file that keeps changes; "" keeps them in memory.
	Journal string
	// Suffixes are tops of trees that exist even when the LDIF has no entry for
	// them, such as "o=isp".
	Suffixes []string

	// RootDN and RootPassword may do everything. The password is in one of the
	// forms of userPassword. With an empty RootDN nobody may but whom Rules let.
	RootDN, RootPassword string
	// Peers are the names that the users of this host bind as by EXTERNAL over a
	// Unix socket, by uid.
	Peers map[int]string
	// Rules say who may do what. Without any, who has logged in may read all
	// but the attributes in Protected, change the own password and, of the own
	// entry, the attributes in SelfWrite, and others may read if AnonymousRead
	// says so.
	Rules []Rule
	// SelfWrite are attributes that the owner of an entry may change.
	SelfWrite []string
	// AnonymousRead lets clients that did not bind search.
	AnonymousRead bool
	// Protected are attributes that only the root DN sees; nil is userPassword.
	Protected []string
	// Indexes are the attributes with an equality index; nil takes those that
	// mail looks up.
	Indexes []string

	// TLS is offered by StartTLS (RFC 4511 4.14) when not nil. For ldaps: give
	// Serve a listener of package crypto/tls. A client whose certificate it
	// verifies may bind by EXTERNAL as the entry, or root DN, that is the
	// certificate's subject: its CAs must issue for nobody else.
	TLS *tls.Config
	// RequireTLS refuses passwords in the clear from other hosts, with
	// confidentialityRequired.
	RequireTLS bool

	MaxMessage     int           // octets of a request of an authenticated client; 16 MB
	MaxConnections int           // 1,000
	SizeLimit      int           // entries of a search without paging, for others than the root DN; 10,000
	TimeLimit      time.Duration // of a search; 10 s
	IdleTimeout    time.Duration // between two requests; 1 h
	WriteTimeout   time.Duration // of one write; 30 s

	Log *slog.Logger
	Now func() time.Time // nil: time.Now
}

// maxAnonymousMessage bounds requests of clients that did not bind.
const maxAnonymousMessage = 64 << 10

// SelfService are the attributes by which people say for themselves what becomes
// of their mail: how it is delivered, where it is forwarded, how it is answered
// and from when to when, in which language they read, and which filters they want.
var SelfService = []string{
	"mailDeliveryOption", "mailForwardingAddress",
	"mailAutoReplyMode", "mailAutoReplySubject", "mailAutoReplyText", "mailAutoReplyTextInternal", "mailAutoReplyTimeOut",
	"vacationStartDate", "vacationEndDate", "preferredLanguage", "mailAntiUBEService",
}

// DefaultIndexes are the attributes that mail looks up.
var DefaultIndexes = []string{
	"objectClass", "uid", "mail", "mailAlternateAddress", "mailEquivalentAddress", "mailLocalAddress",
	"sunPreferredDomain", "associatedDomain", "member", "uniqueMember", "cn", "mailHost",
}

// Server is an LDAP server over one tree.
type Server struct {
	cfg     Config
	tree    *tree
	rootDN  string // normal form, "" when there is none
	rules   []rule
	journal *journal
	writing sync.Mutex // one change at a time, from its check to its effect

	conns  atomic.Int64
	nextID atomic.Int64
	addr   atomic.Pointer[net.Addr]
}

// New loads the tree. It fails when LDIF or journal cannot be read.
func New(cfg Config) (*Server, error) {
	setDefault(&cfg.MaxMessage, 16<<20)
	setDefault(&cfg.MaxConnections, 1000)
	setDefault(&cfg.SizeLimit, 10000)
	setDefault(&cfg.TimeLimit, 10*time.Second)
	setDefault(&cfg.IdleTimeout, time.Hour)
	setDefault(&cfg.WriteTimeout, 30*time.Second)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Indexes == nil {
		cfg.Indexes = DefaultIndexes
	}
	if cfg.Protected == nil {
		cfg.Protected = []string{"userPassword"}
	}
	s := &Server{cfg: cfg, tree: newTree(cfg.Indexes, cfg.Now)}
	var err error
	if cfg.Rules == nil {
		cfg.Rules = defaultRules(&cfg)
	}
	if s.rules, err = compileRules(cfg.Rules); err != nil {
		return nil, fmt.Errorf("embedded directory: %w", err)
	}
	if s.rootDN, err = normalDN(cfg.RootDN); err != nil {
		return nil, fmt.Errorf("embedded directory: root DN: %w", err)
	}
	seed := func() error { return s.tree.loadLDIF(bytes.NewReader(cfg.LDIF), cfg.Suffixes) }
	if cfg.Journal == "" {
		err = seed()
	} else {
		s.journal, err = openJournal(s.tree, cfg.Journal, seed)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded directory: %w", err)
	}
	return s, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Len is the number of entries.
func (s *Server) Len() int {
	s.tree.mu.RLock()
	defer s.tree.mu.RUnlock()
	return len(s.tree.nodes)
}

// Addr is the address of the listener that Serve got last, nil before.
func (s *Server) Addr() net.Addr {
	if a := s.addr.Load(); a != nil {
		return *a
	}
	return nil
}

// Close closes the journal. Serve must have returned.
func (s *Server) Close() error { return s.journal.close() }

// Serve answers clients on l until ctx ends; then it closes l and all
// connections, waits for them, and returns nil. It may run on several
// listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	addr := l.Addr()
	s.addr.Store(&addr)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	pause := time.Millisecond
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() && errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("embedded directory: %w", err)
			}
			// Out of descriptors or the like: wait a moment, do not spin.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		if s.conns.Add(1) > int64(s.cfg.MaxConnections) {
			s.conns.Add(-1)
			s.cfg.Log.Warn("embedded directory: too many connections", "peer", nc.RemoteAddr().String())
			nc.Close()
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer s.conns.Add(-1)
			s.serve(ctx, nc)
		}()
	}
}
