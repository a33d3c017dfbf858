package admin

import "time"

// FlushRequest makes a relay forget what it remembers of the directory: of
// these addresses and domains, or all.
type FlushRequest struct {
	Addresses []string `json:"addresses,omitempty"`
	Domains   []string `json:"domains,omitempty"`
	All       bool     `json:"all,omitempty"`
}

// FlushResult says how many answers were forgotten.
type FlushResult struct {
	Forgotten int `json:"forgotten"`
}

// ExplainRequest asks a relay what it would do with mail for an address.
type ExplainRequest struct {
	Address string    `json:"address"`
	From    string    `json:"from,omitempty"`     // reverse-path, "" for the empty one
	Auth    string    `json:"auth,omitempty"`     // login of whoever sends
	At      time.Time `json:"at,omitzero"`        // zero is now
	Size    int64     `json:"size,omitempty"`     // octets of the message
	NoCache bool      `json:"no_cache,omitempty"` // ask the directory itself
}

// ExplainResult is how mail for an address is answered at RCPT, and why.
type ExplainResult struct {
	Input      string             `json:"input"`
	From       string             `json:"from"`
	Auth       string             `json:"auth,omitempty"`
	At         time.Time          `json:"at"`
	Node       string             `json:"node"`
	Reply      ExplainReply       `json:"reply"`
	Recipients []ExplainRecipient `json:"recipients"`
	Steps      []ExplainStep      `json:"steps"`
	Queries    int                `json:"queries"` // sent to a directory server
	Took       time.Duration      `json:"took_ns"`
	Truncated  bool               `json:"truncated,omitempty"` // there are more steps or recipients
}

// ExplainReply is the reply to RCPT.
type ExplainReply struct {
	Code     int    `json:"code"`
	Enhanced string `json:"enhanced"`
	Text     string `json:"text"`
}

// ExplainRecipient is one final delivery.
type ExplainRecipient struct {
	Address   string   `json:"address"`
	Channel   string   `json:"channel"`
	Pair      string   `json:"pair"`     // "" unless a pair has the mailbox
	NextHop   string   `json:"next_hop"` // the pair, or a domain
	Mailbox   string   `json:"mailbox"`
	Folder    string   `json:"folder"`
	Store     string   `json:"partition,omitempty"` // in which the mailbox would be made
	Quota     int64    `json:"quota_octets"`        // -1 none, -2 the default
	Messages  int64    `json:"quota_messages"`      // the same
	MaxSize   int64    `json:"max_size"`            // 0: no limit of its own
	Filters   []string `json:"filters,omitempty"`   // that judge it because somebody opted in
	List      string   `json:"list,omitempty"`
	Autoreply bool     `json:"autoreply,omitempty"`
	Via       []string `json:"via"`
}

// ExplainStep is one step of the expansion: a decision, or a question to the
// directory.
type ExplainStep struct {
	Depth     int            `json:"depth"`
	Address   string         `json:"address,omitempty"`
	DN        string         `json:"dn,omitempty"`
	Rule      string         `json:"rule,omitempty"`      // section of the directory specification
	Attribute string         `json:"attribute,omitempty"` // that decided
	Code      int            `json:"code,omitempty"`
	Enhanced  string         `json:"enhanced,omitempty"`
	Text      string         `json:"text"`
	Query     *ExplainLookup `json:"query,omitempty"`
}

// ExplainLookup is a question to the directory and what it cost.
type ExplainLookup struct {
	Question string          `json:"question"` // domain, address, entry, search
	Subject  string          `json:"subject"`
	Cache    string          `json:"cache"`            // hit, stale, miss, shared (somebody else was asking), off
	Age      time.Duration   `json:"age_ns,omitempty"` // of the answer
	Took     time.Duration   `json:"took_ns"`
	Answer   string          `json:"answer"`
	Searches []ExplainSearch `json:"searches,omitempty"`
}

// ExplainSearch is one LDAP search.
type ExplainSearch struct {
	Base    string        `json:"base"`
	Scope   string        `json:"scope"`
	Filter  string        `json:"filter"`
	Entries int           `json:"entries"`
	Took    time.Duration `json:"took_ns"`
	Error   string        `json:"error,omitempty"`
}
