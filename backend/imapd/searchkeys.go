package imapd

import (
	"slices"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/message"
)

// What a search key looks at.
type keyOp int

const (
	opAll keyOp = iota
	opAnd
	opOr
	opNot
	opSet     // sequence numbers
	opFlags   // all of flags, or with none set none of them
	opKeyword // a keyword of the mailbox
	opModSeq
	opSize         // larger than low, smaller than high
	opInternalDate // from low on, before high
	opSaveDate
	opEmailID
	opNever
	opSent // the Date field, by its day
	opFrom
	opTo
	opCc
	opBcc
	opSubject
	opHeader
	opBody
	opText
)

// cost orders keys: what a row answers is asked before the structure, that
// before the header, and octets last.
func (o keyOp) cost() int {
	switch {
	case o < opSent:
		return 0
	case o < opHeader:
		return 1
	case o == opHeader:
		return 2
	}
	return 3
}

// searchKey is one key of SEARCH, or several joined.
type searchKey struct {
	op        keyOp
	kids      []searchKey
	ranges    []imapwire.Range
	flags     mailbox.Flags
	none      bool
	name      string // of a keyword or header field
	needle    []byte // folded
	low, high int64
	number    uint64
	cost      int
}

// maxSearchTexts bounds the keys of one SEARCH that look into messages.
const maxSearchTexts = 64

// searchParser takes the keys of a SEARCH.
type searchParser struct {
	*imapwire.Parser
	s      *session
	now    time.Time
	ascii  bool // the client said that its strings are US-ASCII
	texts  int
	modSeq bool // MODSEQ was used
	err    error
}

const day = 24 * time.Hour

// plainKeys are the keys without argument.
var plainKeys = map[string]searchKey{
	"ALL":               {op: opAll},
	"ANSWERED":          {op: opFlags, flags: mailbox.FlagAnswered},
	"DELETED":           {op: opFlags, flags: mailbox.FlagDeleted},
	"DRAFT":             {op: opFlags, flags: mailbox.FlagDraft},
	"FLAGGED":           {op: opFlags, flags: mailbox.FlagFlagged},
	"SEEN":              {op: opFlags, flags: mailbox.FlagSeen},
	"UNANSWERED":        {op: opFlags, flags: mailbox.FlagAnswered, none: true},
	"UNDELETED":         {op: opFlags, flags: mailbox.FlagDeleted, none: true},
	"UNDRAFT":           {op: opFlags, flags: mailbox.FlagDraft, none: true},
	"UNFLAGGED":         {op: opFlags, flags: mailbox.FlagFlagged, none: true},
	"UNSEEN":            {op: opFlags, flags: mailbox.FlagSeen, none: true},
	"NEW":               {op: opNever}, // \Recent is not kept
	"RECENT":            {op: opNever},
	"OLD":               {op: opAll},
	"SAVEDATESUPPORTED": {op: opAll},
}

// keys takes keys up to the end of the command or of the parenthesis.
func (p *searchParser) keys() searchKey {
	and := searchKey{op: opAnd}
	for p.Element() {
		and.kids = append(and.kids, p.key())
		if !p.Has(' ') {
			break
		}
	}
	return and.sorted()
}

// sorted puts the keys that cost least first and notes the cost of all.
func (k searchKey) sorted() searchKey {
	slices.SortStableFunc(k.kids, func(a, b searchKey) int { return a.cost - b.cost })
	k.cost = 0
	for i := range k.kids {
		k.cost = max(k.cost, k.kids[i].cost)
	}
	return k
}

func (p *searchParser) key() searchKey {
	switch c := p.Peek(); {
	case c == '(':
		p.Expect('(')
		if !p.Enter() {
			return searchKey{}
		}
		k := p.keys()
		p.Leave()
		p.Expect(')')
		return k
	case c >= '0' && c <= '9', c == '*', c == '$':
		return p.setKey(false)
	}
	word := upperWord(p.Parser)
	if k, ok := plainKeys[word]; ok {
		return k
	}
	k := p.argument(word)
	k.cost = max(k.cost, k.op.cost())
	return k
}

// setKey takes a set of sequence numbers or UIDs. Numbers that no message has
// are not found.
func (p *searchParser) setKey(uid bool) searchKey {
	set := p.Set()
	if p.Err() != nil {
		return searchKey{}
	}
	k := searchKey{op: opSet}
	if uid || set.Saved {
		ranges, err := p.s.resolve(set, uid)
		if err != nil && p.err == nil {
			p.err = err
		}
		k.ranges = ranges
		return k
	}
	k.ranges = intersect(set.Resolve(uint32(p.s.view.Len())), []imapwire.Range{{Start: 1, Stop: uint32(p.s.view.Len())}})
	return k
}

// argument takes the keys that have arguments.
func (p *searchParser) argument(word string) searchKey {
	p.SP()
	switch word {
	case "UID":
		return p.setKey(true)
	case "NOT", "OR":
		if !p.Enter() { // each nests without a parenthesis
			return searchKey{}
		}
		defer p.Leave()
		if word == "NOT" {
			return searchKey{op: opNot, kids: []searchKey{p.key()}}.sorted()
		}
		first := p.key()
		p.SP()
		return searchKey{op: opOr, kids: []searchKey{first, p.key()}}.sorted()
	case "KEYWORD", "UNKEYWORD":
		flag := p.Atom()
		return searchKey{op: opKeyword, name: string(flag), none: word == "UNKEYWORD"}
	case "LARGER":
		return searchKey{op: opSize, low: p.Number64(), high: 1<<63 - 1}
	case "SMALLER":
		return searchKey{op: opSize, low: -1, high: p.Number64()}
	case "OLDER", "YOUNGER": // RFC 5032
		since := p.now.Add(-time.Duration(p.NZNumber()) * time.Second).UnixNano()
		if word == "OLDER" {
			return searchKey{op: opInternalDate, low: -1 << 63, high: since + 1}
		}
		return searchKey{op: opInternalDate, low: since, high: 1<<63 - 1}
	case "MODSEQ":
		return p.modSeqKey()
	case "EMAILID":
		return p.emailIDKey()
	case "THREADID":
		p.Atom()
		return searchKey{op: opNever}
	case "HEADER":
		name := p.AString()
		p.SP()
		k := p.textKey(opHeader)
		k.name = string(name)
		return k
	}
	if op, ok := textKeys[word]; ok {
		return p.textKey(op)
	}
	return p.dateKey(word)
}

var textKeys = map[string]keyOp{
	"FROM": opFrom, "TO": opTo, "CC": opCc, "BCC": opBcc, "SUBJECT": opSubject, "BODY": opBody, "TEXT": opText,
}

// textKey takes the string of a key.
func (p *searchParser) textKey(op keyOp) searchKey {
	text := p.AString()
	if p.texts++; p.texts > maxSearchTexts {
		p.Fail("too many keys that look into messages")
	}
	if !utf8.Valid(text) || p.ascii && !isASCII(text) {
		p.Fail("string is not in the charset")
	}
	return searchKey{op: op, needle: message.Fold(text)}
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (p *searchParser) dateKey(word string) searchKey {
	var op keyOp
	switch word {
	case "BEFORE", "ON", "SINCE":
		op = opInternalDate
	case "SENTBEFORE", "SENTON", "SENTSINCE":
		op, word = opSent, word[len("SENT"):]
	case "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE": // RFC 8514
		op, word = opSaveDate, word[len("SAVED"):]
	default:
		p.Fail("unknown search key")
		return searchKey{}
	}
	date := p.Date()
	if p.Err() != nil {
		return searchKey{}
	}
	k := searchKey{op: op, low: nanos(date), high: nanos(date.Add(day))}
	switch word {
	case "BEFORE":
		k.low, k.high = -1<<63, k.low
	case "SINCE":
		k.high = 1<<63 - 1
	}
	return k
}

// nanos is t in Unix nanoseconds, or the nearest that there is.
func nanos(t time.Time) int64 {
	switch year := t.Year(); {
	case year < 1678:
		return -1<<63 + 1
	case year > 2261:
		return 1<<63 - 2
	}
	return t.UnixNano()
}

// modSeqKey takes MODSEQ [entry type] number (RFC 7162 3.1.5). Flags have no
// MODSEQ of their own, so that the entry makes no difference.
func (p *searchParser) modSeqKey() searchKey {
	if p.Peek() == '"' {
		p.String()
		p.SP()
		switch string(p.Word()) {
		case "priv", "shared", "all":
		default:
			p.Fail("priv, shared or all expected")
		}
		p.SP()
	}
	p.modSeq = true
	return searchKey{op: opModSeq, number: uint64(p.Number64())}
}

func (p *searchParser) emailIDKey() searchKey {
	id := p.Atom()
	if len(id) != 17 || id[0] != 'M' {
		return searchKey{op: opNever}
	}
	k := searchKey{op: opEmailID}
	for _, c := range id[1:] {
		switch {
		case '0' <= c && c <= '9':
			k.number = k.number<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			k.number = k.number<<4 | uint64(c-'a'+10)
		default:
			return searchKey{op: opNever}
		}
	}
	return k
}
