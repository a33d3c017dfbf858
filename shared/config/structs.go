package config

import (
	"time"

	"github.com/spf13/pflag"
)

// Common is what every node is told.
type Common struct {
	Node    string
	Cluster string
	Dir     string
	TLS     NodeTLS
	Gossip  Gossip
	Admin   AdminAPI
	Metrics struct{ Listen string }
	Log     struct{ Level, Format string }
	Runtime Runtime

	from  map[string]string // where the values come from, by option; default where absent
	flags *pflag.FlagSet
}

// NodeTLS are the files of the certificate shown to other nodes.
type NodeTLS struct {
	CA, Cert, Key string
}

// Gossip is how a node takes part in the membership.
type Gossip struct {
	Listen    string
	Advertise string
	Join      []string
	KeyFile   string `mapstructure:"key_file"`
	Interval  time.Duration
}

// AdminAPI is where the admin API listens.
type AdminAPI struct {
	Socket string
	Listen string
}

// Runtime sets the collector of the Go runtime.
type Runtime struct {
	GCPercent   int  `mapstructure:"gc_percent"`
	MemoryLimit Size `mapstructure:"memory_limit"`
}

// Relay is the configuration of a tier-1 node.
type Relay struct {
	Common     `mapstructure:",squash"`
	Hostname   string
	HeapGrowth Size `mapstructure:"heap_growth"`
	Roles      []string
	Public     PublicTLS
	SMTP       SMTP
	Submission Submission
	IMAP       Access
	POP3       Access
	Proxy      Proxy
	Trust      Trust
	Directory  Directory
	DNS        DNS
	Pairs      []StaticNode
	Accept     Accept
	Expand     Expand
	Filters    []Filter
	Autoreply  Autoreply
	Notices    Notices
	LMTP       LMTPClient
	Queue      Queue
	Retry      Retry
	Outbound   Outbound
	Journal    Journal
	Tracing    Tracing
}

// PublicTLS are the files of the certificate shown to the Internet.
type PublicTLS struct {
	Cert, Key string
	ClientCA  string `mapstructure:"client_ca"`
	Addresses []string
}

// DNS is whom a relay asks, and what it answers itself.
type DNS struct {
	Servers []string
	Serve   DNSServe
}

// DNSServe is the responder of a relay.
type DNSServe struct {
	Listen      []string
	Zone        string
	Names       []string
	NameServers []string `mapstructure:"name_servers"`
	Contact     string
	TTL         time.Duration `mapstructure:"ttl"`
	Rate        int
}

// SMTP is the service on port 25, and the limits of every SMTP listener.
type SMTP struct {
	Listen         []string
	MaxSize        Size          `mapstructure:"max_size"`
	MaxRecipients  int           `mapstructure:"max_recipients"`
	MaxErrors      int           `mapstructure:"max_errors"`
	MaxSessions    int           `mapstructure:"max_sessions"`
	MaxPerAddress  int           `mapstructure:"max_per_address"`
	MaxReceived    int           `mapstructure:"max_received"`
	MaxOwnReceived int           `mapstructure:"max_own_received"`
	HoldLoops      bool          `mapstructure:"hold_loops"`
	CommandTimeout time.Duration `mapstructure:"command_timeout"`
	DataTimeout    time.Duration `mapstructure:"data_timeout"`
	InFlight       Size          `mapstructure:"in_flight"`
}

// Submission is mail from our own users.
type Submission struct {
	Listen    []string
	TLSListen []string `mapstructure:"tls_listen"`
}

// Access is one protocol of the access proxy.
type Access struct {
	Listen    []string
	TLSListen []string `mapstructure:"tls_listen"`
}

// Proxy bounds the access proxy.
type Proxy struct {
	MaxSessions      int           `mapstructure:"max_sessions"`
	MaxPerAddress    int           `mapstructure:"max_per_address"`
	PlainLoopback    bool          `mapstructure:"plain_loopback"`
	LoginTimeout     time.Duration `mapstructure:"login_timeout"`
	IdleTimeout      time.Duration `mapstructure:"idle_timeout"`
	BackendTimeout   time.Duration `mapstructure:"backend_timeout"`
	PasswordCacheTTL time.Duration `mapstructure:"password_cache_ttl"`
}

// Trust lists the peers that may do more than strangers.
type Trust struct {
	Proxy         Networks
	XCLIENT       Networks `mapstructure:"xclient"`
	Relay         Networks
	Admin         Networks
	NormalizeBare Networks `mapstructure:"normalize_bare"`
}

// Directory is how LDAP is reached.
type Directory struct {
	URLs          []string `mapstructure:"urls"`
	Base          string
	BindDN        string `mapstructure:"bind_dn"`
	Password      Secret
	PasswordFile  string `mapstructure:"password_file"`
	StartTLS      bool   `mapstructure:"start_tls"`
	CA            string
	DefaultDomain string `mapstructure:"default_domain"`
	Timeout       time.Duration
	Connections   int
	CacheEntries  int           `mapstructure:"cache_entries"`
	CacheTTL      time.Duration `mapstructure:"cache_ttl"`
	NegativeTTL   time.Duration `mapstructure:"negative_ttl"`
	StaleTTL      time.Duration `mapstructure:"stale_ttl"`
	Domains       []Domain

	Schema              string
	DCRoot              string `mapstructure:"dc_root"`
	Attributes          []string
	ExtraAttributes     []string `mapstructure:"extra_attributes"`
	ClassTags           []string `mapstructure:"class_tags"`
	UserClasses         []string `mapstructure:"user_classes"`
	GroupClasses        []string `mapstructure:"group_classes"`
	DomainFilterSchema1 string   `mapstructure:"domain_filter_schema1"`
	DomainFilterSchema2 string   `mapstructure:"domain_filter_schema2"`
	Uplevel             int
	VanityDomains       bool     `mapstructure:"vanity_domains"`
	LookupURLs          []string `mapstructure:"lookup_urls"`
	LoginSeparators     string   `mapstructure:"login_separators"`
	NetgroupBase        string   `mapstructure:"netgroup_base"`
	NetgroupFilter      string   `mapstructure:"netgroup_filter"`
	Subaddress          string
	SubaddressSeparator string   `mapstructure:"subaddress_separator"`
	URLHosts            []string `mapstructure:"url_hosts"`
	Master              string
	ServerOrder         string        `mapstructure:"server_order"`
	AddressNegativeTTL  time.Duration `mapstructure:"address_negative_ttl"`
	CacheFile           string        `mapstructure:"cache_file"`
	CacheFileBytes      Size          `mapstructure:"cache_file_bytes"`

	Serve DirectoryServer
}

// DirectoryServer is a directory of our own.
type DirectoryServer struct {
	File             string
	LDIF             string `mapstructure:"ldif"`
	Socket           string
	Listen           []string
	RootDN           string `mapstructure:"root_dn"`
	RootPasswordFile string `mapstructure:"root_password_file"`
	ClientCA         string `mapstructure:"client_ca"`
	Peers            []DirectoryPeer
}

// DirectoryPeer is who a user of the host is to a directory of our own.
type DirectoryPeer struct {
	UID  int `mapstructure:"uid"`
	Name string
}

// Domain is a hosted domain that has no entry of its own.
type Domain struct {
	Name, Base string
	Aliases    []string
}

// StaticNode tells a relay where a node is, for when gossip says nothing.
type StaticNode struct {
	Pair, Node       string
	LMTP, IMAP, POP3 string
}

// Accept is what stands behind a 250.
type Accept struct {
	Mode         string
	PairDeadline time.Duration `mapstructure:"pair_deadline"`
}

// Autoreply bounds the answers for people who are away.
type Autoreply struct {
	PerHour    int      `mapstructure:"per_hour"`
	MaxContent Size     `mapstructure:"max_content"`
	SpamFields []string `mapstructure:"spam_fields"`
}

// Filter is a program that judges mail, by the milter protocol.
type Filter struct {
	Name, Address  string
	Services       []string
	OptIn          []string      `mapstructure:"opt_in"`
	OnFailure      string        `mapstructure:"on_failure"`
	RefusedForSome string        `mapstructure:"refused_for_some"`
	ConnectTimeout time.Duration `mapstructure:"connect_timeout"`
	CommandTimeout time.Duration `mapstructure:"command_timeout"`
	MessageTimeout time.Duration `mapstructure:"message_timeout"`
}

// Expand is what a relay makes of an address of the directory.
type Expand struct {
	Hostnames          []string
	Options            []string
	ListLimit          int      `mapstructure:"list_limit"`
	Piece              int      `mapstructure:"piece"`
	Trim               []string `mapstructure:"trim"`
	Mappings           string
	Texts              []string
	Quota              int64
	MessageQuota       int64    `mapstructure:"message_quota"`
	OverQuotaTemporary bool     `mapstructure:"overquota_temporary"`
	RouteToRoutingHost bool     `mapstructure:"route_to_routing_host"`
	GuaranteedChannels []string `mapstructure:"guaranteed_channels"`
	GroupRights        bool     `mapstructure:"group_rights"`
	Reverse            bool
	SRSDomain          string `mapstructure:"srs_domain"`
	SRSKeyFile         string `mapstructure:"srs_key_file"`
}

// Notices is what senders are told about their mail.
type Notices struct {
	Language string
	Texts    string
}

// LMTPClient is the pool of connections to the pairs.
type LMTPClient struct {
	Connections int
	IdleTimeout time.Duration `mapstructure:"idle_timeout"`
	Recipients  int
}

// Queue is the relay's queue on disk.
type Queue struct {
	Dir         string
	MaxBytes    Size `mapstructure:"max_bytes"`
	MaxMessages int  `mapstructure:"max_messages"`
	Reserve     Size
}

// Retry is the schedule of deferred mail.
type Retry struct {
	Schedule []time.Duration
	Lifetime time.Duration
	Warn     []time.Duration
	// QuotaGrace is for mailboxes that are full.
	QuotaGrace time.Duration `mapstructure:"quota_grace"`
	// HoldCheck is 0 when nothing is released by itself.
	HoldCheck time.Duration `mapstructure:"hold_check"`
}

// Outbound is delivery to the Internet.
type Outbound struct {
	Concurrency    int
	PerDestination int `mapstructure:"per_destination"`
	Port           int
	RequireTLS     bool   `mapstructure:"require_tls"`
	Source         string // address to connect from
}

// Journal is the record of mail events that postern trace reads.
type Journal struct {
	Dir      string
	FileSize Size `mapstructure:"file_size"`
	Files    int
}

// Tracing is where the spans of messages go.
type Tracing struct {
	Endpoint string
	Sample   int
}

// Backend is the configuration of a tier-2 node.
type Backend struct {
	Common    `mapstructure:",squash"`
	Raft      Raft
	Groups    []Group
	Serve     Serve
	Bench     Bench
	Mail      MailLimits
	Store     Store
	Upkeep    Upkeep
	Snapshots Snapshots
	Journal   Journal
	Tracing   Tracing
}

// Raft is the transport of the groups and their common limits.
type Raft struct {
	Listen           string
	HeartbeatTimeout time.Duration `mapstructure:"heartbeat_timeout"`
	EntryCache       Size          `mapstructure:"entry_cache"`
	SegmentSize      Size          `mapstructure:"segment_size"`
	SeedRate         Size          `mapstructure:"seed_rate"`
	Reseed           string
	NewPair          string `mapstructure:"new_pair"`
}

// Group is a replica that this node holds.
type Group struct {
	Pair    string
	Dir     string
	Serve   Serve
	Members []GroupMember
}

// Upkeep is what a replica does for its store beside serving.
type Upkeep struct {
	Rate         Size
	CompactEvery time.Duration `mapstructure:"compact_every"`
	CompactShare int           `mapstructure:"compact_share"`
	CompactAge   time.Duration `mapstructure:"compact_age"`
	Undelete     time.Duration
	ScrubEvery   time.Duration `mapstructure:"scrub_every"`
	DigestEvery  time.Duration `mapstructure:"digest_every"`
}

// Snapshots says when snapshots are made and how many are kept.
type Snapshots struct {
	Dir   string
	Every time.Duration
	Keep  int
}

// Serve are the addresses for the relays.
type Serve struct{ LMTP, IMAP, POP3 string }

// GroupMember is one voter of a group.
type GroupMember struct {
	Node    string
	ID      string
	Addr    string
	Witness bool
}

// Bench are plain listeners for measuring, on loopback only.
type Bench struct {
	LMTP, IMAP string
	Domain     string
	Password   Secret
}

// MailLimits bound what a mailbox takes.
type MailLimits struct {
	MaxSize     Size `mapstructure:"max_size"`
	MaxSessions int  `mapstructure:"max_sessions"`
	Answers     bool
	Folders     string // anyone or listed
}

// Store is the metadata store.
type Store struct {
	Cache    Size
	Memtable Size
	InFlight Size `mapstructure:"in_flight"`
}

// Witness is the configuration of a log-only node.
type Witness struct {
	Common `mapstructure:",squash"`
	Raft   Raft
	Groups []Group
	Retain struct {
		MaxLog Size `mapstructure:"max_log"`
	}
}
