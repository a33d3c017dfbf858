package metrics

// The tiers.
var (
	Relay   = &Tier{name: "relay"}
	Backend = &Tier{name: "backend"}
	Witness = &Tier{name: "witness"}
	Every   = &Tier{name: "every"} // all daemons
)

// Figures of every daemon.
var (
	GossipMembers = Every.gauges("postern_gossip_members", "Members of the cluster as gossip sees them.", "state")
	GossipRefused = Every.counters("postern_gossip_refused_total", "Gossip refused, by reason.", "reason")
	ConfigReloads = Every.counters("postern_config_reloads_total", "Reloads of the configuration, by result.", "result")
	AdminRequests = Every.counters("postern_admin_requests_total", "Calls of the admin API, by result.", "result")
	AdminRefusals = Every.counter("postern_admin_refusals_total", "Calls of the admin API by a peer without the role.")
)

// Figures of relays.
var (
	SMTPSessions   = Relay.counters("postern_smtp_sessions_total", "Sessions begun, by service.", "service")
	MailAccepted   = Relay.counter("postern_mail_accepted_total", "Messages answered 250 after DATA.")
	MailRefused    = Relay.counters("postern_mail_refused_total", "Messages or recipients refused, by class of the reply.", "class")
	MailBytes      = Relay.counter("postern_mail_accepted_bytes_total", "Octets of the messages answered 250.")
	MailThrough    = Relay.counter("postern_mail_through_total", "Messages delivered to every pair before the 250.")
	MailQueued     = Relay.counter("postern_mail_queued_total", "Messages that went through the queue.")
	Duplicates     = Relay.counter("postern_queue_duplicates_total", "Recipients outside that were left out because another message of the same root has them.")
	Deliveries     = Relay.counters("postern_deliveries_total", "Deliveries to a recipient, by channel and result.", "channel", "result")
	LMTPRedirects  = Relay.counter("postern_lmtp_redirects_total", "Answers of a replica that named another one.")
	UserRedirects  = Relay.counters("postern_user_redirects_total", "Answers of a pair that named another one, to which the user has moved, by service.", "service")
	ProxyLogins    = Relay.counters("postern_proxy_logins_total", "Logins, by protocol and result.", "protocol", "result")
	ProxyResumed   = Relay.counter("postern_proxy_sessions_resumed_total", "Sessions that went on at another replica after a hand-over or a crash.")
	DirSearches    = Relay.counters("postern_directory_searches_total", "Questions to the directory, by result.", "result")
	DirFaults      = Relay.counters("postern_directory_faults_total", "Faults of the directory and of what is in it, by kind.", "fault")
	DirRoundTrips  = Relay.counters("postern_directory_round_trips_total", "Requests sent to LDAP servers, by operation.", "operation")
	MilterRequests = Relay.counters("postern_milter_requests_total", "What filters made of messages, and their refusals and failures before: pass, changed, reject, tempfail, discard, hold or failed.", "filter", "outcome")
	MilterSeconds  = Relay.seconds("postern_milter_message_seconds", "Time from the first word about a message to the verdict of a filter.")
	DNSAnswers     = Relay.counters("postern_dns_answers_total", "Answers of the DNS responder, by protocol and result; dropped are none.", "protocol", "result")
	DirAnswers     = Relay.counters("postern_directory_answers_total", "Answers given, by question and by where they come from.", "question", "from")
)

// Names of figures of every daemon that are read when they are scraped.
const (
	Ready          = "postern_ready"
	Draining       = "postern_draining"
	CertificateEnd = "postern_certificate_expiry_timestamp_seconds"
	DiskFree       = "postern_disk_free_bytes"
	DiskSize       = "postern_disk_size_bytes"
)

// Names of relay figures that are read when they are scraped.
const (
	SMTPOpenNow   = "postern_smtp_sessions_open"
	ProxyOpenNow  = "postern_proxy_sessions_open"
	ProxyWaiting  = "postern_proxy_logins_waiting"
	DNSRelays     = "postern_dns_relays"
	DirStale      = "postern_directory_stale_answers"
	MailDropped   = "postern_mail_events_dropped"
	QueueMessages = "postern_queue_messages"
	QueueOldest   = "postern_queue_oldest_seconds"
)

// Figures of backends.
var (
	LMTPDeliveries  = Backend.counters("postern_lmtp_deliveries_total", "Recipients answered, by class of the reply.", "pair", "class")
	LMTPDuplicates  = Backend.counters("postern_lmtp_duplicates_total", "Deliveries recognised by their key.", "pair")
	LMTPKeyMismatch = Backend.counters("postern_lmtp_key_mismatches_total", "Deliveries refused because their key was seen with another body.", "pair")
	LMTPBytes       = Backend.counters("postern_lmtp_bytes_total", "Octets of the messages delivered.", "pair")
	IMAPSessions    = Backend.gauges("postern_imap_sessions_open", "IMAP sessions open now.", "pair")
	IMAPLogins      = Backend.counters("postern_imap_logins_total", "Logins that relays made for their clients, by result: ok or refused.", "pair", "result")
	IMAPCommands    = Backend.counters("postern_imap_commands_total", "IMAP commands answered, by answer: OK, NO or BAD.", "pair", "answer")
	GroupMemberUp   = Backend.gauges("postern_group_member_up", "1 while a member of the pair answers the replica that serves, which alone says this.", "pair", "member", "kind")
	GroupLag        = Backend.gauges("postern_group_lag_entries", "Entries that a member of the pair does not have, as the replica that serves sees it.", "pair", "member")
	CommitSeconds   = Backend.seconds("postern_commit_seconds", "Time from proposing an entry to its being applied here.")
)

// Figures of the upkeep of stores, by pair.
var (
	CompactFreed   = Backend.counters("postern_compact_freed_bytes_total", "Octets that compaction gave back.", "pair")
	CompactSegment = Backend.counters("postern_compact_segments_total", "Segments of the log rewritten.", "pair")
	CompactDead    = Backend.gauges("postern_compact_dead_bytes", "Octets of deleted mail that wait for compaction.", "pair")
	ScrubOctets    = Backend.counters("postern_scrub_bytes_total", "Octets read by scrubs.", "pair")
	ScrubDamaged   = Backend.counters("postern_scrub_damaged_frames_total", "Damaged frames of the log that scrubs found.", "pair")
	ScrubRepaired  = Backend.counters("postern_scrub_repaired_frames_total", "Frames of the log repaired from the other replica.", "pair")
	OpenMended     = Backend.counters("postern_open_mended_total", "Damaged places of the log that were mended from the other replica at the start, before this one took part.", "pair")
	ScrubLost      = Backend.gauges("postern_scrub_lost", "Frames and messages that the last scrub found damaged and could not repair.", "pair")
	ScrubFinished  = Backend.gauges("postern_scrub_finished_timestamp_seconds", "When the last scrub ended.", "pair")
	SnapshotTime   = Backend.gauges("postern_snapshot_timestamp_seconds", "When the newest snapshot was made.", "pair")
	SnapshotCount  = Backend.gauges("postern_snapshots", "Snapshots there are.", "pair")
	DigestDiffers  = Backend.gauges("postern_digest_differs", "1 when the replicas' digests differed at the last comparison.", "pair")
	StoreLow       = Backend.gauges("postern_store_low", "1 while the disk of this replica has no room for mail: for the next segment of the log, or for rows.", "pair")
	Quarantined    = Backend.gauges("postern_quarantined", "1 while this replica is quarantined.", "pair")
	UpkeepFailures = Backend.counters("postern_upkeep_failures_total", "Tasks of upkeep that failed, by task.", "pair", "task")
)

// Names of backend and witness figures that are read when they are scraped.
const (
	GroupServing = "postern_group_serving"
	GroupTerm    = "postern_group_term"
	GroupApplied = "postern_group_applied_index"
	GroupCommit  = "postern_group_commit_index"
	GroupVoters  = "postern_group_voters"
	LogBytes     = "postern_log_bytes"
)
