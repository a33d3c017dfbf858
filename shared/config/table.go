package config

// Tier is a set of daemons.
type Tier uint8

// The tiers an option can belong to.
const (
	TierRelay Tier = 1 << iota
	TierBackend
	TierWitness

	every = TierRelay | TierBackend | TierWitness
	store = TierBackend | TierWitness
	mail  = TierRelay | TierBackend
)

// String names the tiers as in the reference.
func (t Tier) String() string {
	switch t {
	case every:
		return "all"
	case TierRelay:
		return "relay"
	case TierBackend:
		return "backend"
	case TierWitness:
		return "witness"
	case store:
		return "backend, witness"
	case mail:
		return "relay, backend"
	}
	return "?"
}

// Type says what values an option takes.
type Type string

// The types of options.
const (
	String    Type = "string"
	File      Type = "file"
	HostPort  Type = "host:port"
	HostPorts Type = "list of host:port"
	Int       Type = "integer"
	Bool      Type = "yes or no"
	Duration  Type = "duration"
	Durations Type = "list of durations"
	Octets    Type = "size"
	Words     Type = "list of words"
	Blocks    Type = "list of address blocks"
	Hidden    Type = "secret"
	Objects   Type = "list of objects"
)

// Option is one row of the table.
type Option struct {
	Name    string // with dots between the levels; "[]" after a list of objects
	Type    Type
	Unit    string // "" where the type says it
	Default string
	Tier    Tier
	Reload  bool     // takes effect at a reload; the others need a restart
	Fixed   string   // why it needs one
	Need    bool     // must be given
	Values  []string // the only values allowed
	Min     int64    // for integers and sizes, and seconds of durations
	Max     int64    // 0: no upper bound
	Help    string
}

// Reasons of several options not to follow a reload.
const (
	isState     = "the state is opened there"
	isSocket    = "it is listened there, by rights that only the start has"
	isName      = "the name is; what is in the file is read again"
	isIdentity  = "it is in the certificate, and the other nodes know it"
	isDirectory = "the directory is opened with it, and its sessions have their rights"
	isStore     = "the store is opened with it"
)

// Table holds every option there is, in the order of the reference.
var Table = []Option{
	{Name: "node", Type: String, Tier: every, Fixed: isIdentity, Need: true, Help: "Name of this node, the one in its certificate. Unique in the cluster."},
	{Name: "cluster", Type: String, Tier: every, Fixed: isIdentity, Need: true, Help: "Name of the cluster, the one in its certificates."},
	{Name: "dir", Type: File, Tier: every, Fixed: isState, Need: true, Help: "Directory of this node's state. Relative names of other files begin here."},

	{Name: "tls.ca", Type: File, Default: "tls/ca.pem", Tier: every, Fixed: isName, Help: "Certificates of the cluster's CA, PEM. Read again when it changes."},
	{Name: "tls.cert", Type: File, Default: "tls/node.pem", Tier: every, Fixed: isName, Help: "This node's certificate for the other nodes, PEM. Read again when it changes."},
	{Name: "tls.key", Type: File, Default: "tls/node-key.pem", Tier: every, Fixed: isName, Help: "Key of tls.cert, PEM."},

	{Name: "gossip.listen", Type: HostPort, Tier: every, Fixed: isSocket, Help: "Address of the membership protocol, TCP and UDP. Empty: no gossip; a relay then needs pairs."},
	{Name: "gossip.advertise", Type: HostPort, Tier: every, Fixed: "the other nodes know this one by it", Help: "Address that the others use, if it is not gossip.listen."},
	{Name: "gossip.join", Type: HostPorts, Tier: every, Reload: true, Help: "Members to join at start, and again while none of them is seen."},
	{Name: "gossip.key_file", Type: File, Default: "tls/gossip.key", Tier: every, Fixed: isName, Help: "Keys of the membership protocol, one in base64 on each line, 32 octets each. The first one encrypts, all of them decrypt. Read again at a reload."},
	{Name: "gossip.interval", Type: Duration, Default: "200ms", Tier: every, Fixed: "the clocks of the protocol are made with it", Min: 0, Help: "Time between two rounds of gossip."},

	{Name: "admin.socket", Type: File, Default: "admin.sock", Tier: every, Fixed: isSocket, Help: "Unix socket of the admin API."},
	{Name: "admin.listen", Type: HostPort, Tier: every, Fixed: isSocket, Help: "Address of the admin API for callers with a certificate of role admin. Empty: socket only."},
	{Name: "metrics.listen", Type: HostPort, Tier: every, Fixed: isSocket, Help: "Plain HTTP address of /metrics, /healthz and /readyz, for the management network. Empty: on the admin API only."},
	{Name: "log.level", Type: String, Default: "info", Tier: every, Reload: true, Values: []string{"debug", "info", "warn", "error"}, Help: "Least severe message that is logged."},
	{Name: "log.format", Type: String, Default: "json", Tier: every, Reload: true, Values: []string{"json", "text"}, Help: "Form of the log, on standard error."},
	{Name: "runtime.gc_percent", Type: Int, Unit: "percent", Default: "400", Tier: every, Reload: true, Min: 10, Max: 10000, Help: "Growth of the heap between two collections. More uses more memory and less CPU."},
	{Name: "runtime.memory_limit", Type: Octets, Default: "1GB", Tier: every, Reload: true, Help: "Memory from which on the collector works harder, whatever gc_percent says; what the directory cache remembers is not counted. 0: none."},

	{Name: "hostname", Type: String, Tier: TierRelay, Fixed: "messages under way, and the peers of open sessions, have it", Need: true, Help: "Host name in banners, EHLO and trace fields."},
	{Name: "heap_growth", Type: Octets, Default: "64MB", Tier: TierRelay, Reload: true, Help: "Growth of the heap between two collections from which on it is less than runtime.gc_percent, down to 100: of a larger heap that would be more garbage and hardly less work. 0: none."},
	{Name: "roles", Type: Words, Default: "mx,submit,proxy,outbound", Tier: TierRelay, Fixed: "services are opened with them", Values: []string{"mx", "submit", "proxy", "outbound"}, Help: "What this relay does: take mail from the Internet, take mail from users, let clients reach their mail, send to the Internet."},
	{Name: "public.cert", Type: File, Default: "tls/public.pem", Tier: TierRelay, Fixed: isName, Help: "Certificate for clients and the Internet, PEM. Read again when it changes."},
	{Name: "public.key", Type: File, Default: "tls/public-key.pem", Tier: TierRelay, Fixed: isName, Help: "Key of public.cert, PEM."},
	{Name: "public.client_ca", Type: File, Tier: TierRelay, Reload: true, Help: "CAs of client certificates, for SASL EXTERNAL. Empty: not offered. Whose a certificate is says inetDomainCertMap of its domain, or its mail address; with certificate=userCertificate in directory.attributes the entry of that user must have it, too, so that taking it out there locks it out."},
	{Name: "public.addresses", Type: Words, Tier: TierRelay, Reload: true, Help: "Addresses by which the Internet and clients reach this relay, at most 4, told to the others for dns.serve. Empty: the one that gossip tells for smtp.listen."},

	{Name: "smtp.listen", Type: HostPorts, Default: ":25", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for mail from the Internet."},
	{Name: "smtp.max_size", Type: Octets, Default: "50MB", Tier: TierRelay, Reload: true, Min: 64 << 10, Help: "Largest message accepted (552 5.3.4)."},
	{Name: "smtp.max_recipients", Type: Int, Default: "1000", Tier: TierRelay, Reload: true, Min: 100, Max: 100000, Help: "Recipients of one message (452 4.5.3 past it; RFC 5321 wants at least 100)."},
	{Name: "smtp.max_errors", Type: Int, Default: "20", Tier: TierRelay, Reload: true, Min: 1, Help: "Refused commands after which a session ends (421)."},
	{Name: "smtp.max_sessions", Type: Int, Default: "2000", Tier: TierRelay, Reload: true, Min: 1, Help: "Sessions open at once, of each listener."},
	{Name: "smtp.max_per_address", Type: Int, Default: "100", Tier: TierRelay, Reload: true, Min: 1, Help: "Sessions open at once from one address."},
	{Name: "smtp.max_received", Type: Int, Default: "100", Tier: TierRelay, Reload: true, Min: 10, Help: "Received fields beyond which a message is in a loop (554 5.4.6)."},
	{Name: "smtp.max_own_received", Type: Int, Default: "10", Tier: TierRelay, Reload: true, Min: 2, Help: "Received fields of this relay itself beyond which a message is in a loop."},
	{Name: "smtp.hold_loops", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Hold a message in a loop until an operator releases it, instead of refusing it so that its sender hears of it."},
	{Name: "smtp.command_timeout", Type: Duration, Default: "5m", Tier: TierRelay, Reload: true, Min: 1, Help: "Time from one command to the next."},
	{Name: "smtp.data_timeout", Type: Duration, Default: "3m", Tier: TierRelay, Reload: true, Min: 1, Help: "Time between two pieces of a message."},
	{Name: "smtp.in_flight", Type: Octets, Default: "256MB", Tier: TierRelay, Reload: true, Min: 1 << 20, Help: "Memory for messages being received or delivered; beyond it 452 4.3.1."},

	{Name: "submission.listen", Type: HostPorts, Default: ":587", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for users' mail, with STARTTLS."},
	{Name: "submission.tls_listen", Type: HostPorts, Default: ":465", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for users' mail, TLS from the start."},
	{Name: "imap.listen", Type: HostPorts, Default: ":143", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for IMAP, with STARTTLS."},
	{Name: "imap.tls_listen", Type: HostPorts, Default: ":993", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for IMAP, TLS from the start."},
	{Name: "pop3.listen", Type: HostPorts, Default: ":110", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for POP3, with STLS."},
	{Name: "pop3.tls_listen", Type: HostPorts, Default: ":995", Tier: TierRelay, Fixed: isSocket, Help: "Addresses for POP3, TLS from the start."},

	{Name: "proxy.max_sessions", Type: Int, Default: "20000", Tier: TierRelay, Reload: true, Min: 1, Help: "IMAP and POP3 sessions open at once."},
	{Name: "proxy.max_per_address", Type: Int, Default: "500", Tier: TierRelay, Reload: true, Min: 1, Help: "IMAP and POP3 sessions open at once from one address."},
	{Name: "proxy.plain_loopback", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Take passwords without TLS from loopback addresses. For development only."},
	{Name: "proxy.login_timeout", Type: Duration, Default: "1m", Tier: TierRelay, Reload: true, Min: 1, Help: "Time until a client has logged in."},
	{Name: "proxy.idle_timeout", Type: Duration, Default: "31m", Tier: TierRelay, Reload: true, Min: 60, Help: "Silence after which a session ends; RFC 9051 wants at least 30 minutes."},
	{Name: "proxy.backend_timeout", Type: Duration, Default: "5s", Tier: TierRelay, Reload: true, Min: 1, Help: "Time to find the serving replica at login; then NO [UNAVAILABLE]."},
	{Name: "proxy.password_cache_ttl", Type: Duration, Default: "5m", Tier: TierRelay, Reload: true, Help: "How long a password that the directory has accepted is taken without asking again. 0: always ask."},

	{Name: "trust.proxy", Type: Blocks, Tier: TierRelay, Reload: true, Help: "Peers that begin with a PROXY header, version 1 or 2."},
	{Name: "trust.xclient", Type: Blocks, Tier: TierRelay, Reload: true, Help: "Peers that may use XCLIENT."},
	{Name: "trust.relay", Type: Blocks, Tier: TierRelay, Reload: true, Help: "Peers that may send to anywhere without authentication."},
	{Name: "trust.admin", Type: Blocks, Tier: TierRelay, Reload: true, Help: "Clients from where store administrators (mailAdminRole) may open other people's mailboxes, by IMAP and POP. Empty: nowhere. Each time is logged."},
	{Name: "trust.normalize_bare", Type: Blocks, Tier: TierRelay, Reload: true, Help: "Peers whose bare CR or LF is turned into CRLF, not refused."},

	{Name: "directory.urls", Type: Words, Tier: TierRelay, Reload: true, Need: true, Help: "LDAP servers in the order of preference: ldap://host:port, ldaps://host:port, or ldapi:// and the path of a Unix socket with %2F for each slash."},
	{Name: "directory.base", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Distinguished name below which everything is searched."},
	{Name: "directory.bind_dn", Type: String, Tier: TierRelay, Reload: true, Help: "Name to bind as for searches. Empty: anonymous."},
	{Name: "directory.password", Type: Hidden, Tier: TierRelay, Reload: true, Help: "Password of bind_dn. Better: password_file."},
	{Name: "directory.password_file", Type: File, Tier: TierRelay, Reload: true, Help: "File that holds the password of bind_dn."},
	{Name: "directory.start_tls", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Use StartTLS on ldap:// URLs."},
	{Name: "directory.ca", Type: File, Tier: TierRelay, Reload: true, Help: "CAs of the servers' certificates, PEM. Empty: those of the system."},
	{Name: "directory.default_domain", Type: String, Tier: TierRelay, Reload: true, Help: "Domain of a login name without one."},
	{Name: "directory.timeout", Type: Duration, Default: "5s", Tier: TierRelay, Reload: true, Min: 1, Help: "Time for one question."},
	{Name: "directory.connections", Type: Int, Default: "4", Tier: TierRelay, Reload: true, Min: 1, Max: 64, Help: "Connections to each server."},
	{Name: "directory.cache_entries", Type: Int, Default: "100000", Tier: TierRelay, Reload: true, Min: 100, Help: "Answers kept."},
	{Name: "directory.cache_ttl", Type: Duration, Default: "10m", Tier: TierRelay, Reload: true, Help: "How long a found entry is used without asking again."},
	{Name: "directory.negative_ttl", Type: Duration, Default: "1m", Tier: TierRelay, Reload: true, Help: "How long a clean answer of no such entry is used."},
	{Name: "directory.stale_ttl", Type: Duration, Default: "1h", Tier: TierRelay, Reload: true, Help: "How long an old answer is used while no server answers."},

	{Name: "directory.schema", Type: String, Default: "sun-schema2", Tier: TierRelay, Reload: true, Values: []string{"sun-schema1", "sun-schema2", "sun-compat", "generic"}, Help: "Layout of the tree and names of attributes and classes: Schema 1, Schema 2 native or in compatibility mode, or inetOrgPerson and groupOfNames with domains from directory.domains."},
	{Name: "directory.dc_root", Type: String, Tier: TierRelay, Reload: true, Help: "Top of the DC tree, such as o=internet, for sun-schema1 and sun-compat."},
	{Name: "directory.attributes", Type: Words, Tier: TierRelay, Reload: true, Help: "Other names of attributes: purpose=attribute, or old=new. A purpose may stand in several: alternate=mailAlternateAddress,mailLocalAddress. Nothing on the right: there is none."},
	{Name: "directory.extra_attributes", Type: Words, Tier: TierRelay, Reload: true, Help: "Further attributes to read with users and groups."},
	{Name: "directory.class_tags", Type: Words, Tier: TierRelay, Reload: true, Help: "Generations of servers whose object classes and address attributes count: ims50, nms41, sims40. Empty: those of directory.schema."},
	{Name: "directory.user_classes", Type: Words, Tier: TierRelay, Reload: true, Help: "Sets of object classes that make a user, each joined by a plus sign. Empty: those of directory.schema or directory.class_tags."},
	{Name: "directory.group_classes", Type: Words, Tier: TierRelay, Reload: true, Help: "Sets of object classes that make a group, each joined by a plus sign."},
	{Name: "directory.domain_filter_schema1", Type: String, Tier: TierRelay, Reload: true, Help: "Filter that a node of the DC tree must match. Empty: inetDomain or inetDomainAlias."},
	{Name: "directory.domain_filter_schema2", Type: String, Tier: TierRelay, Reload: true, Help: "Filter that finds the organization of domain $D. Empty: its class and the two attributes with names of domains."},
	{Name: "directory.uplevel", Type: Int, Default: "0", Tier: TierRelay, Reload: true, Max: 7, Help: "Subdomains without an entry, a sum of: 1, they belong to the parent domain; 2, their addresses are looked for under its name too; 4, the name used and not the canonical one tells the default domain."},
	{Name: "directory.vanity_domains", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Search domains that are nobody's as the vanity domain of a user. Costs a search of the whole tree for each such name."},
	{Name: "directory.lookup_urls", Type: Words, Tier: TierRelay, Reload: true, Help: "LDAP URLs that find the owners of an address, tried in turn, with $V $1V $B $R $A $U $S $D $K. Empty: ldap:///$V?*?sub?$R, with the owners of @domain."},
	{Name: "directory.login_separators", Type: String, Tier: TierRelay, Reload: true, Help: "Characters that may stand between uid and domain in a login besides @, where domainUidSeparator says so."},
	{Name: "directory.netgroup_base", Type: String, Tier: TierRelay, Reload: true, Help: "Name below which netgroups (RFC 2307) are that mailAllowedServiceAccess and its like name as @netgroup. Empty: there are none, and a filter that names one lets nobody in."},
	{Name: "directory.netgroup_filter", Type: String, Default: "(&(objectClass=nisNetgroup)(cn=$N))", Tier: TierRelay, Reload: true, Help: "Filter that finds the netgroup $N."},
	{Name: "directory.subaddress", Type: String, Default: "relaxed", Tier: TierRelay, Reload: true, Values: []string{"relaxed", "wild", "exact"}, Help: "Whose an address user+detail is when no entry has all of it: relaxed, that of the entry with user+*, then of the one with user; wild, that of the entry with user+* only; exact, nobody's."},
	{Name: "directory.subaddress_separator", Type: String, Default: "+", Tier: TierRelay, Reload: true, Help: "What stands between user and subaddress. none: there are no subaddresses."},
	{Name: "directory.url_hosts", Type: Words, Tier: TierRelay, Reload: true, Help: "Hosts besides those of directory.urls that LDAP URLs in entries may name."},
	{Name: "directory.master", Type: String, Tier: TierRelay, Reload: true, Help: "LDAP server that is asked again before an address is said to be nobody's, when directory.urls are replicas that may lag. While it is away such mail waits."},
	{Name: "directory.server_order", Type: String, Default: "listed", Tier: TierRelay, Reload: true, Values: []string{"listed", "fastest"}, Help: "Which healthy server is asked first: the one listed first, or the one that answered fastest lately."},
	{Name: "directory.address_negative_ttl", Type: Duration, Default: "0s", Tier: TierRelay, Reload: true, Help: "How long a clean answer of no such address, login or entry is used. 0: not at all, new users work at once."},
	{Name: "directory.cache_file", Type: File, Default: "directory.cache", Tier: TierRelay, Reload: true, Help: "File that carries found domains, addresses and entries, never passwords, over a restart, for a start without LDAP. Empty: none."},
	{Name: "directory.cache_file_bytes", Type: Octets, Default: "64MB", Tier: TierRelay, Reload: true, Min: 1 << 16, Help: "Largest size of directory.cache_file."},
	{Name: "directory.domains", Type: Objects, Tier: TierRelay, Reload: true, Help: "Hosted domains that have no entry of their own in the directory."},
	{Name: "directory.domains[].name", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Name of the domain."},
	{Name: "directory.domains[].base", Type: String, Tier: TierRelay, Reload: true, Help: "Distinguished name below which its users and groups are. Empty: directory.base."},
	{Name: "directory.domains[].aliases", Type: Words, Tier: TierRelay, Reload: true, Help: "Other names of the domain."},
	{Name: "directory.serve.file", Type: File, Tier: TierRelay, Fixed: isDirectory, Help: "File that keeps a directory of our own, which this relay serves over LDAP, for sites that have no other; one relay of a cluster does. directory.urls says how relays reach it. Empty: none is served."},
	{Name: "directory.serve.ldif", Type: File, Tier: TierRelay, Fixed: isDirectory, Help: "Tree that directory.serve.file begins with. Empty: directory.base and directory.dc_root with nothing below."},
	{Name: "directory.serve.socket", Type: File, Default: "ldapi", Tier: TierRelay, Fixed: isSocket, Help: "Unix socket that it is served on: ldapi:// and the path with %2F for each slash. Empty: none."},
	{Name: "directory.serve.listen", Type: HostPorts, Tier: TierRelay, Fixed: isSocket, Help: "Addresses that it is served on, ldap:// with StartTLS by public.cert; passwords in the clear are taken from this host only."},
	{Name: "directory.serve.root_dn", Type: String, Tier: TierRelay, Fixed: isDirectory, Help: "Name that may do everything. It needs no entry."},
	{Name: "directory.serve.root_password_file", Type: File, Tier: TierRelay, Fixed: isDirectory, Help: "File that holds its password, or the hash of it. Empty: it logs in by EXTERNAL only."},
	{Name: "directory.serve.client_ca", Type: File, Tier: TierRelay, Fixed: isDirectory, Help: "CAs of client certificates, PEM. Who shows one may log in by EXTERNAL as the entry, or directory.serve.root_dn, that is its subject: they must issue for nobody else. Empty: not offered."},
	{Name: "directory.serve.peers", Type: Objects, Tier: TierRelay, Fixed: isDirectory, Help: "Who the users of this host are when they log in by EXTERNAL on the socket."},
	{Name: "directory.serve.peers[].uid", Type: Int, Tier: TierRelay, Max: 1 << 32, Help: "Number of the user."},
	{Name: "directory.serve.peers[].name", Type: String, Tier: TierRelay, Need: true, Help: "Distinguished name that the user is."},

	{Name: "dns.servers", Type: HostPorts, Tier: TierRelay, Reload: true, Help: "Resolvers. Empty: those of /etc/resolv.conf."},

	{Name: "dns.serve.listen", Type: HostPorts, Tier: TierRelay, Fixed: isSocket, Help: "Addresses, UDP and TCP, on which this relay answers as authoritative name server of dns.serve.zone. Port 53 comes from postern-dns.socket, like the others below 1024. Empty: it does not."},
	{Name: "dns.serve.zone", Type: String, Tier: TierRelay, Reload: true, Help: "Zone that is delegated to the relays, as mx.example.com. It has MX, A and AAAA of the relays that are fit; those that drain, are dead or whose /readyz says 503 are left out."},
	{Name: "dns.serve.names", Type: Words, Tier: TierRelay, Reload: true, Help: "Names below dns.serve.zone that have the same records, such as imap.mx.example.com."},
	{Name: "dns.serve.name_servers", Type: Words, Tier: TierRelay, Reload: true, Help: "Names of the zone's name servers. Empty: those of the relays, RELAY.ZONE."},
	{Name: "dns.serve.contact", Type: String, Tier: TierRelay, Reload: true, Help: "Mail address of who looks after the zone. Empty: hostmaster of the zone."},
	{Name: "dns.serve.ttl", Type: Duration, Default: "30s", Tier: TierRelay, Reload: true, Min: 1, Max: 86400, Help: "Time for which others keep the answers, also that there is none: a relay that drains is asked for so long."},
	{Name: "dns.serve.rate", Type: Int, Unit: "answers a second", Default: "200", Tier: TierRelay, Reload: true, Min: 1, Max: 1000000, Help: "Answers by UDP to one network (/24, /56). Beyond it a client has to ask by TCP."},

	{Name: "pairs", Type: Objects, Tier: TierRelay, Reload: true, Help: "Nodes of the pairs, used until gossip tells more."},
	{Name: "pairs[].pair", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Name of the pair."},
	{Name: "pairs[].node", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Name of the node."},
	{Name: "pairs[].lmtp", Type: HostPort, Tier: TierRelay, Reload: true, Help: "Its LMTP address."},
	{Name: "pairs[].imap", Type: HostPort, Tier: TierRelay, Reload: true, Help: "Its IMAP address."},
	{Name: "pairs[].pop3", Type: HostPort, Tier: TierRelay, Reload: true, Help: "Its POP3 address."},

	{Name: "accept.mode", Type: String, Default: "through", Tier: TierRelay, Reload: true, Values: []string{"through", "local"}, Help: "What stands behind a 250 for our own users: through, every pair has committed; local, this relay's disk."},
	{Name: "accept.pair_deadline", Type: Duration, Default: "5s", Tier: TierRelay, Reload: true, Min: 1, Help: "Time that a pair has to commit before its recipients are queued."},
	{Name: "filters", Type: Objects, Tier: TierRelay, Reload: true, Help: "Programs that judge mail by the milter protocol, such as those for spam and viruses, in the order in which they are asked: each sees what the one before has changed. At most 16. See postern-relay(8)."},
	{Name: "filters[].name", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Name of the filter in logs and metrics; no other filter has it."},
	{Name: "filters[].address", Type: String, Tier: TierRelay, Reload: true, Need: true, Help: "Where it listens: unix:/path, inet:host:port or inet6:host:port; also inet:port@host."},
	{Name: "filters[].services", Type: Words, Default: "mx", Tier: TierRelay, Reload: true, Values: []string{"mx", "submit"}, Help: "Roles of this relay whose sessions it follows from the first octet on, so that it can refuse a client or a recipient. It means nothing with opt_in."},
	{Name: "filters[].opt_in", Type: Words, Tier: TierRelay, Reload: true, Help: "Values of mailAntiUBEService, or of the attribute that directory.attributes names in its place, by which somebody asks for this filter. It then judges, after DATA, what goes to those recipients only, by whatever service, list or forward it comes. Empty: it judges all mail of its services."},
	{Name: "filters[].on_failure", Type: String, Default: "tempfail", Tier: TierRelay, Reload: true, Values: []string{"tempfail", "accept", "reject"}, Help: "What becomes of mail that it cannot be asked about, or says nonsense of: 451 4.7.1, let it pass, or 550 5.7.1."},
	{Name: "filters[].refused_for_some", Type: String, Default: "notify", Tier: TierRelay, Reload: true, Values: []string{"notify", "hold", "discard"}, Help: "What becomes of a message that it refuses for those who have opted in, when others get it, or it came by a list or a forward, so that the client can no longer be told: a notification to the sender, held for the operator, or dropped."},
	{Name: "filters[].connect_timeout", Type: Duration, Default: "30s", Tier: TierRelay, Reload: true, Min: 1, Max: 600, Help: "Time to connect and to agree on the protocol."},
	{Name: "filters[].command_timeout", Type: Duration, Default: "30s", Tier: TierRelay, Reload: true, Min: 1, Max: 600, Help: "Time for each of its answers but the last."},
	{Name: "filters[].message_timeout", Type: Duration, Default: "5m", Tier: TierRelay, Reload: true, Min: 1, Max: 600, Help: "Time for its answer to the end of a message. It can ask for more, up to twice that."},

	{Name: "expand.hostnames", Type: Words, Tier: TierRelay, Reload: true, Help: "Further names of this relay, as mailRoutingHosts and the mailHost of groups give them."},
	{Name: "expand.options", Type: Words, Tier: TierRelay, Reload: true, Help: "Delivery options beside the usual ones, or instead of them: prefixes, name, equals sign, template, such as #*archive=$U@archive.example."},
	{Name: "expand.list_limit", Type: Int, Default: "1000", Unit: "members", Tier: TierRelay, Reload: true, Min: 1, Max: 50000, Help: "Members of a list beyond which it is expanded after the client was answered."},
	{Name: "expand.piece", Type: Int, Default: "5000", Unit: "members", Tier: TierRelay, Reload: true, Min: 100, Max: 50000, Help: "Members that are queued at once then."},
	{Name: "expand.trim", Type: Words, Default: "Disposition-Notification-To,Return-Receipt-To,X-Confirm-Reading-To", Tier: TierRelay, Reload: true, Help: "Header fields that a list which changes its mail never passes on."},
	{Name: "expand.mappings", Type: File, Tier: TierRelay, Reload: true, Help: "Mapping tables, in the format of the old servers' mapping file. Lists name one in mgrpURLResultMapping for what their member URLs find; NOTIFICATION_LANGUAGE chooses the language of notifications, see postern-relay(8). Empty: there are none, and such a list is not expanded."},
	{Name: "expand.texts", Type: Words, Tier: TierRelay, Reload: true, Help: "Texts of refusals in place of the usual ones, name=text: user_disabled=This account is closed. A name that is not known is refused with a list of those that are."},
	{Name: "expand.quota", Type: Octets, Default: "0", Tier: TierRelay, Reload: true, Help: "Quota of users whose entry has none, or -2. The same on every relay: the pair has it with the next message. 0: none."},
	{Name: "expand.message_quota", Type: Int, Default: "0", Unit: "messages", Tier: TierRelay, Reload: true, Max: 1 << 40, Help: "The same in messages. 0: none."},
	{Name: "expand.overquota_temporary", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Answer 452 and not 552 for users whose status is overquota."},
	{Name: "expand.route_to_routing_host", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Send mail for a domain that other relays expand to the first of its mailRoutingHosts, not to where its name leads."},
	{Name: "expand.guaranteed_channels", Type: Words, Tier: TierRelay, Reload: true, Help: "Values of mailSMTPSubmitChannel that stand for guaranteed delivery: what users with one of them submit is stored however full the mailboxes are. Other values mean nothing."},
	{Name: "expand.group_rights", Type: Bool, Default: "yes", Tier: TierRelay, Reload: true, Help: "Count in lists of rights of folders the groups that have who posts as a member by name or address, and not only those of aclGroupAddr. Costs a search below the domain of the sender, beside that of the recipient, where mail is for a folder and they are not remembered; servers need an index of the attributes of members."},
	{Name: "expand.reverse", Type: Bool, Default: "yes", Tier: TierRelay, Reload: true, Help: "Make alternate addresses of users primary ones in what they send: in the envelope and in From, Sender and Reply-To. Equivalent addresses stay."},
	{Name: "expand.srs_domain", Type: String, Tier: TierRelay, Reload: true, Help: "Domain of ours to which the senders of mail that is forwarded outside are rewritten, and that takes what returns to them. Empty: senders are kept."},
	{Name: "expand.srs_key_file", Type: File, Default: "srs.key", Tier: TierRelay, Reload: true, Help: "Keys of the rewritten senders, one on each line, at least 16 octets, the same on every relay. The first one signs, all of them verify. Read when expand.srs_domain is set."},
	{Name: "notices.language", Type: String, Default: "en", Tier: TierRelay, Reload: true, Help: "Language of notifications to senders who prefer none that there is: a tag such as de. Users of ours have preferredLanguage, or their domain has."},
	{Name: "notices.texts", Type: File, Tier: TierRelay, Reload: true, Help: "Directory with texts of notifications, files called LANGUAGE.txt, see postern-relay(8). A section replaces that of the language; a language that is new has all of them. Empty: those that come with the program: en, de, es, fr, it, ja."},
	{Name: "autoreply.per_hour", Type: Int, Default: "100", Unit: "answers", Tier: TierRelay, Reload: true, Min: 1, Max: 100000, Help: "Answers for one person, and to one sender, that this relay makes in an hour."},
	{Name: "autoreply.max_content", Type: Octets, Default: "256KB", Tier: TierRelay, Reload: true, Min: 1 << 10, Max: 50 << 20, Help: "Size up to which an echo returns the message whole; of a longer one it returns the header."},
	{Name: "autoreply.spam_fields", Type: Words, Default: "X-Spam,X-Spam-Flag,X-Spam-Status", Tier: TierRelay, Reload: true, Help: "Header fields that say of spam yes, true or spam. Such mail is not answered."},
	{Name: "lmtp.connections", Type: Int, Default: "32", Tier: TierRelay, Reload: true, Min: 1, Max: 1024, Help: "Connections to each pair."},
	{Name: "lmtp.idle_timeout", Type: Duration, Default: "1m", Tier: TierRelay, Reload: true, Min: 1, Help: "Silence after which a connection to a pair is closed."},
	{Name: "lmtp.recipients", Type: Int, Default: "500", Tier: TierRelay, Reload: true, Min: 1, Max: 10000, Help: "Recipients of one transaction with a pair."},

	{Name: "queue.dir", Type: File, Default: "queue", Tier: TierRelay, Fixed: isState, Help: "Directory of the queue."},
	{Name: "queue.max_bytes", Type: Octets, Default: "10GB", Tier: TierRelay, Reload: true, Min: 1 << 20, Help: "Octets in the queue beyond which mail is refused with 452 4.3.1."},
	{Name: "queue.max_messages", Type: Int, Default: "1000000", Tier: TierRelay, Reload: true, Min: 100, Help: "Messages in the queue beyond which mail is refused with 452 4.3.1."},
	{Name: "queue.reserve", Type: Octets, Default: "256MB", Tier: TierRelay, Reload: true, Help: "Free space of the file system below which mail is refused with 452 4.3.1."},
	{Name: "retry.schedule", Type: Durations, Default: "5m,15m,30m,1h,2h,4h", Tier: TierRelay, Reload: true, Help: "Time from one attempt to the next; the last one repeats."},
	{Name: "retry.lifetime", Type: Duration, Default: "5d", Tier: TierRelay, Reload: true, Min: 60, Help: "Age at which mail that cannot be delivered is returned."},
	{Name: "retry.quota_grace", Type: Duration, Default: "5d", Tier: TierRelay, Reload: true, Min: 60, Help: "Age at which mail is returned that a mailbox over its quota does not take, with 5.2.2. It is tried until then, so that it comes once its user has made room."},
	{Name: "retry.hold_check", Type: Duration, Default: "5m", Tier: TierRelay, Reload: true, Help: "How often the directory is asked whether people whose mail is held are on hold still; their mail goes on when they are not. 0: held mail waits for postern queue release."},
	{Name: "retry.warn", Type: Durations, Default: "4h", Tier: TierRelay, Reload: true, Help: "Ages at which the sender is told of a delay."},
	{Name: "outbound.concurrency", Type: Int, Default: "100", Tier: TierRelay, Reload: true, Min: 1, Help: "Deliveries to the Internet at once."},
	{Name: "outbound.per_destination", Type: Int, Default: "20", Tier: TierRelay, Reload: true, Min: 1, Help: "Deliveries to one domain at once."},
	{Name: "outbound.port", Type: Int, Default: "25", Tier: TierRelay, Reload: true, Min: 1, Max: 65535, Help: "Port of the servers that MX records name. For tests."},
	{Name: "outbound.require_tls", Type: Bool, Default: "no", Tier: TierRelay, Reload: true, Help: "Never send in the clear."},
	{Name: "outbound.source", Type: String, Tier: TierRelay, Reload: true, Help: "Address to connect from. Empty: the system chooses."},

	{Name: "raft.listen", Type: HostPort, Tier: store, Fixed: isSocket, Need: true, Help: "Address of raft and re-seeding, for the nodes of the groups."},
	{Name: "raft.heartbeat_timeout", Type: Duration, Default: "500ms", Tier: store, Fixed: "the lease of a leader is fixed when raft begins, and must not be longer", Help: "Silence of the leader after which a voter stands; the same on every node of a group."},
	{Name: "raft.entry_cache", Type: Octets, Default: "32MB", Tier: store, Reload: true, Min: 1 << 20, Help: "Entries kept in memory for followers, of each group."},
	{Name: "raft.segment_size", Type: Octets, Default: "64MB", Tier: store, Fixed: "files of this size are made ahead and used again", Min: 1 << 20, Max: 1 << 30, Help: "Size of a segment of the log."},
	{Name: "raft.seed_rate", Type: Octets, Default: "50MB", Tier: store, Reload: true, Help: "Octets a second that a data replica gives to a member that is made anew. 0: no limit."},
	{Name: "raft.reseed", Type: String, Default: "automatic", Tier: store, Reload: true, Values: []string{"automatic", "manual"}, Help: "Whether a data replica for which the other one's log begins too late has itself made anew, or waits for an operator's postern pair replace."},
	{Name: "raft.new_pair", Type: String, Default: "newest", Tier: store, Fixed: "it is read when a pair is created", Values: []string{"newest", "before"}, Help: "Formats that a pair begins with when it is created: the newest of this release, or those of the release before until postern upgrade finalize, for a cluster in which nodes of that release still take part or which may go back to it."},
	{Name: "groups", Type: Objects, Tier: store, Fixed: "the replicas are opened; members are changed by postern pair", Need: true, Help: "Replicas that this node holds."},
	{Name: "groups[].pair", Type: String, Tier: store, Need: true, Help: "Name of the pair, as in mailHost."},
	{Name: "groups[].dir", Type: File, Tier: store, Help: "Directory of the replica. Empty: the name of the pair below dir."},
	{Name: "groups[].serve.lmtp", Type: HostPort, Tier: store, Help: "On a backend, address for deliveries to this pair. Empty: serve.lmtp, which holds for a node with one group."},
	{Name: "groups[].serve.imap", Type: HostPort, Tier: store, Help: "The same for IMAP sessions."},
	{Name: "groups[].serve.pop3", Type: HostPort, Tier: store, Help: "The same for POP3 sessions."},
	{Name: "groups[].members", Type: Objects, Tier: store, Need: true, Help: "The voters of the pair when it is first made: two with data and a witness. Later changes are the pair's own, see postern pair."},
	{Name: "groups[].members[].node", Type: String, Tier: store, Need: true, Help: "Name of the node."},
	{Name: "groups[].members[].id", Type: String, Tier: store, Need: true, Help: "Random id of its replica, made once and never used again: 16 hexadecimal digits. A replica that lost its directory gets a new one."},
	{Name: "groups[].members[].addr", Type: HostPort, Tier: store, Need: true, Help: "Its raft address."},
	{Name: "groups[].members[].witness", Type: Bool, Default: "no", Tier: store, Help: "It holds the log only."},

	{Name: "serve.lmtp", Type: HostPort, Tier: TierBackend, Fixed: isSocket, Help: "Address for deliveries from relays, on a node with one group."},
	{Name: "serve.imap", Type: HostPort, Tier: TierBackend, Fixed: isSocket, Help: "Address for IMAP sessions from relays, on a node with one group."},
	{Name: "serve.pop3", Type: HostPort, Tier: TierBackend, Fixed: isSocket, Help: "Address for POP3 sessions from relays, on a node with one group."},
	{Name: "bench.lmtp", Type: HostPort, Tier: TierBackend, Fixed: isSocket, Help: "Plain LMTP for measuring, on a loopback address only."},
	{Name: "bench.imap", Type: HostPort, Tier: TierBackend, Fixed: isSocket, Help: "Plain IMAP for measuring, on a loopback address only; every account has the password bench.password."},
	{Name: "bench.domain", Type: String, Tier: TierBackend, Fixed: "it is for measuring only", Help: "Domain of names without one on bench.lmtp and bench.imap."},
	{Name: "bench.password", Type: Hidden, Tier: TierBackend, Fixed: "it is for measuring only", Help: "Password of every account on bench.imap."},
	{Name: "mail.max_size", Type: Octets, Default: "50MB", Tier: TierBackend, Fixed: "relays were told it, and keep their LMTP sessions", Min: 64 << 10, Max: 1 << 30, Help: "Largest message stored."},
	{Name: "mail.answers", Type: Bool, Default: "yes", Tier: TierBackend, Reload: true, Help: "Answer mail for people who are away, and remember who was answered. The same on both replicas. No: nobody is answered, and mail that was only to be answered is accepted and not stored."},
	{Name: "mail.folders", Type: String, Default: "anyone", Tier: TierBackend, Reload: true, Values: []string{"anyone", "listed"}, Help: "Whose mail for user+folder goes to a folder without a list of rights: anyone's, or only its owner's, as on the old servers, so that others' goes to INBOX until the owner gives them the right p. The same on both replicas. It counts once the pair is on format 2."},
	{Name: "mail.max_sessions", Type: Int, Default: "20000", Tier: TierBackend, Reload: true, Min: 1, Help: "IMAP and POP3 sessions open at once."},
	{Name: "store.cache", Type: Octets, Default: "64MB", Tier: TierBackend, Fixed: isStore, Min: 1 << 20, Help: "Cache of metadata, of each group."},
	{Name: "store.memtable", Type: Octets, Default: "32MB", Tier: TierBackend, Fixed: isStore, Min: 1 << 20, Max: 1 << 30, Help: "Metadata in memory before it is written, of each group."},
	{Name: "store.in_flight", Type: Octets, Default: "64MB", Tier: TierBackend, Reload: true, Min: 1 << 20, Help: "Entries proposed and not yet applied, of each group; beyond it 451."},
	{Name: "upkeep.rate", Type: Octets, Default: "20MB", Tier: TierBackend, Reload: true, Min: 1 << 16, Help: "Octets a second that compaction and scrub each read and write, of each group. The more commands come in, the slower: with 50 a second half of it, with 100 a third, and so on, at least a sixteenth; all of it when less than a tenth of the disk is free. A tenth of what the disk does is a good value."},
	{Name: "upkeep.compact_every", Type: Duration, Default: "24h", Tier: TierBackend, Reload: true, Help: "Time between two looks at what deleted mail has left. 0: never."},
	{Name: "upkeep.compact_share", Type: Int, Unit: "percent", Default: "40", Tier: TierBackend, Reload: true, Min: 1, Max: 100, Help: "Dead part of a segment of the log from which on it is rewritten."},
	{Name: "upkeep.compact_age", Type: Duration, Default: "720h", Tier: TierBackend, Reload: true, Min: 3600, Help: "Time after which deleted mail is gone from the log, however little of a segment it is. Snapshots and backups keep it longer."},
	{Name: "upkeep.undelete", Type: Duration, Default: "168h", Tier: TierBackend, Reload: true, Min: 3600, Help: "Age of a segment of the log before it is rewritten."},
	{Name: "upkeep.scrub_every", Type: Duration, Default: "168h", Tier: TierBackend, Reload: true, Help: "Time between two readings of the whole store, which find damage and repair it from the other replica. 0: never."},
	{Name: "upkeep.digest_every", Type: Duration, Default: "10m", Tier: TierBackend, Reload: true, Help: "Time between two comparisons of the replicas of a pair. 0: never."},
	{Name: "snapshots.dir", Type: File, Tier: TierBackend, Fixed: "those that there are were looked for there", Help: "Directory of snapshots, on the file system of the group's; one below it for each pair. Empty: snapshots below the group's directory."},
	{Name: "snapshots.every", Type: Duration, Default: "24h", Tier: TierBackend, Reload: true, Help: "Time between two snapshots. 0: none but those made by hand; compaction then waits for one."},
	{Name: "snapshots.keep", Type: Int, Unit: "snapshots", Default: "3", Tier: TierBackend, Reload: true, Min: 1, Max: 1000, Help: "Snapshots kept of those that the schedule made."},
	{Name: "retain.max_log", Type: Octets, Default: "0", Tier: TierWitness, Reload: true, Help: "Room for the log of a group: an alarm comes at half of it, and writes are held back at 90 percent. 0: what the file system has."},

	{Name: "journal.dir", Type: File, Default: "journal", Tier: mail, Fixed: isState, Help: "Directory of the record of mail events, which postern trace reads. Empty: none is kept."},
	{Name: "journal.file_size", Type: Octets, Default: "16MB", Tier: mail, Reload: true, Min: 64 << 10, Help: "Size at which a file of the record is closed."},
	{Name: "journal.files", Type: Int, Unit: "files", Default: "8", Tier: mail, Reload: true, Min: 1, Max: 10000, Help: "Files of the record that are kept."},
	{Name: "tracing.endpoint", Type: String, Tier: mail, Reload: true, Help: "OpenTelemetry collector that gets a trace of each message, http://host:4318 or https://host; OTLP over HTTP. No addresses of people and no contents are sent. Empty: no traces."},
	{Name: "tracing.sample", Type: Int, Unit: "percent", Default: "100", Tier: mail, Reload: true, Min: 1, Max: 100, Help: "Part of the messages that is traced, the same ones on every node."},
}

// find returns the row of name in tier; indexes of lists are written "[]".
func find(name string, tier Tier) *Option {
	for i := range Table {
		if Table[i].Name == name && Table[i].Tier&tier != 0 {
			return &Table[i]
		}
	}
	return nil
}
