package maillog

import (
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Config says where events go.
type Config struct {
	Node   string       // name of this node, in every event
	Logger *slog.Logger // for the operator; nil: none

	// Dir holds the journal; "" keeps no journal. FileBytes is the size at
	// which a file is closed (default 16 MiB) and Files how many are kept
	// (default 8).
	Dir       string
	FileBytes int64
	Files     int
	// Flush is the longest time an event stays in memory only (default 200 ms).
	Flush time.Duration

	// Observe, when not nil, is told of each event, to count it. It must be
	// quick, and must not keep or change the event.
	Observe func(*Event)

	Now func() time.Time // default time.Now
}

// Log takes events. A nil *Log takes and drops them. Any number of goroutines
// may use it.
type Log struct {
	cfg     Config
	journal *journal
}

// Open makes a Log and, if cfg.Dir is given, its journal there, after the
// events of earlier runs.
func Open(cfg Config) (*Log, error) {
	cfg.FileBytes, cfg.Files = sizes(cfg.FileBytes, cfg.Files)
	if cfg.Flush <= 0 {
		cfg.Flush = 200 * time.Millisecond
	}
	l := &Log{cfg: cfg}
	if cfg.Dir != "" {
		j, err := openJournal(cfg)
		if err != nil {
			return nil, err
		}
		l.journal = j
	}
	return l, nil
}

func (l *Log) now() time.Time {
	if l.cfg.Now != nil {
		return l.cfg.Now()
	}
	return time.Now()
}

// Close writes what is in memory and closes the journal.
func (l *Log) Close() error {
	if l == nil || l.journal == nil {
		return nil
	}
	return l.journal.close()
}

// SetSizes makes other sizes of the journal hold; zero is the default of Config. Files
// beyond a number that is less than before are removed.
func (l *Log) SetSizes(fileBytes int64, files int) error {
	if l == nil || l.journal == nil {
		return nil
	}
	return l.journal.setSizes(sizes(fileBytes, files))
}

func sizes(fileBytes int64, files int) (int64, int) {
	if fileBytes <= 0 {
		fileBytes = 16 << 20
	}
	if files <= 0 {
		files = 8
	}
	return fileBytes, files
}

// Dropped counts events that the journal had no room for.
func (l *Log) Dropped() int64 {
	if l == nil || l.journal == nil {
		return 0
	}
	return l.journal.dropped.Load()
}

// MaxTrace bounds the events of one answer of Trace, and of the messages it
// follows for an address.
const MaxTrace = 10000

// Trace returns the events of this node that concern query, oldest first. A
// query with an @ (or a bare "postmaster") is an address: every message that
// has it as reverse-path or recipient is told whole. Any other query is a queue
// id, a trace id or a Message-ID. At most MaxTrace events are returned, the
// newest ones.
func (l *Log) Trace(query string) ([]Event, error) {
	query = strings.TrimSpace(query)
	if l == nil || l.journal == nil || query == "" {
		return nil, nil
	}
	ids := map[string]bool{query: true}
	key := strings.ToLower(strings.Trim(query, "<>"))
	// First find the messages, then tell everything about them: an event may
	// name only the queue id or only the trace id.
	err := l.journal.each([]string{key}, func(e *Event) {
		if len(ids) < MaxTrace && e.concerns(query, key) {
			for _, id := range []string{e.QueueID, e.TraceID} {
				if id != "" {
					ids[id] = true
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	needles := make([]string, 0, len(ids)+1)
	needles = append(needles, key)
	for id := range ids {
		needles = append(needles, strings.ToLower(id))
	}
	var found []Event
	err = l.journal.each(needles, func(e *Event) {
		if ids[e.QueueID] && e.QueueID != "" || ids[e.TraceID] && e.TraceID != "" || e.concerns(query, key) {
			if len(found) >= 2*MaxTrace {
				found = append(found[:0], found[len(found)-MaxTrace:]...)
			}
			found = append(found, *e)
		}
	})
	if len(found) > MaxTrace {
		found = found[len(found)-MaxTrace:]
	}
	return found, err
}

// concerns reports whether e names the id query or the address key.
func (e *Event) concerns(query, key string) bool {
	return e.QueueID == query || e.TraceID == query ||
		e.MessageID != "" && strings.Trim(e.MessageID, "<>") == strings.Trim(query, "<>") ||
		strings.EqualFold(e.ReversePath.String(), key) || strings.EqualFold(e.Recipient.String(), key)
}

// wireEvent is an Event as the journal and the admin API spell it.
type wireEvent struct {
	Time        time.Time `json:"time"`
	Node        string    `json:"node,omitempty"`
	Kind        Kind      `json:"event"`
	QueueID     string    `json:"queue_id,omitempty"`
	ReversePath *string   `json:"reverse_path,omitempty"`
	Recipient   string    `json:"recipient,omitempty"`
	Channel     string    `json:"channel,omitempty"`
	Relay       string    `json:"relay,omitempty"`
	Delay       float64   `json:"delay,omitempty"`
	Status      string    `json:"status,omitempty"`
	TraceID     string    `json:"trace_id,omitempty"`
	Code        int       `json:"code,omitempty"`
	Reply       string    `json:"reply,omitempty"`
	Client      string    `json:"client,omitempty"`
	User        string    `json:"user,omitempty"`
	MessageID   string    `json:"message_id,omitempty"`
	Size        int64     `json:"size,omitempty"`
	Recipients  int       `json:"recipients,omitempty"`
}

// MarshalJSON spells e as a line of the journal does.
func (e Event) MarshalJSON() ([]byte, error) {
	b := e.appendJSON(nil)
	return b[:len(b)-1], nil
}

// UnmarshalJSON reads what MarshalJSON wrote; unknown keys are ignored.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wireEvent
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*e = Event{
		Time: w.Time, Node: w.Node, Kind: w.Kind, QueueID: w.QueueID, Channel: mail.Channel(w.Channel),
		Relay: w.Relay, Delay: time.Duration(w.Delay * float64(time.Second)), TraceID: w.TraceID, Code: w.Code,
		Reply: w.Reply, Client: w.Client, User: w.User, MessageID: w.MessageID, Size: w.Size, Recipients: w.Recipients,
	}
	e.Status, _ = mail.ParseStatus(w.Status)
	if w.ReversePath != nil {
		e.ReversePath = readAddress(*w.ReversePath)
		e.NullSender = *w.ReversePath == ""
	}
	e.Recipient = readAddress(w.Recipient)
	return nil
}

// readAddress reads an address that a log line holds; one that the grammar
// does not know is kept as a local part, so that it is still shown.
func readAddress(s string) mail.Address {
	if s == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(s, true)
	if err != nil {
		return mail.Address{Local: s}
	}
	return a
}
