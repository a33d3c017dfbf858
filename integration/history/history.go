package history

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what is asked.
type Kind int

// The kinds of question.
const (
	Append  Kind = iota // one message, within the quota
	Deliver             // one message with a key
	Store               // flags of messages
	Expunge             // removes messages that have \Deleted
	List                // UIDs, UIDNEXT and HIGHESTMODSEQ
	Rows                // flags and MODSEQ of messages
	Usage               // octets and messages
)

var kindNames = [...]string{"append", "deliver", "store", "expunge", "list", "rows", "usage"}

func (k Kind) String() string { return kindNames[k] }

// Action is what Store does with flags.
type Action int

// The actions.
const (
	Replace Action = iota
	Add
	Remove
)

// Deleted is the bit of \Deleted in flags.
const Deleted = 1 << 3

// Limit is a quota; -1 is without limit.
type Limit struct{ Bytes, Messages int64 }

// Input is a question.
type Input struct {
	Account string
	Kind    Kind
	Size    int64
	Key     string // Deliver: the same again is the same delivery
	Limit   *Limit // Deliver: the quota from now on
	Force   bool   // Deliver: the quota is ignored
	UIDs    []uint32
	Action  Action
	Flags   uint64
	// Since, if not nil, leaves messages with a larger MODSEQ alone.
	Since *uint64

	lost int // number of a question whose answer is not known, from 1 on
	twin int // the one before that asks the same, 0 if there is none
	from int // how many questions were answered before
}

// Row is a message in the mailbox.
type Row struct {
	UID    uint32
	Flags  uint64
	ModSeq uint64
	Size   int64
}

// Output is an answer. Fields that a kind does not have are zero; those that a
// protocol does not tell are left out of the comparison by Partial.
type Output struct {
	unknown bool

	OverQuota bool
	UID       uint32 // Append, Deliver
	Duplicate bool
	UIDs      []uint32 // List; Store: changed; Expunge: removed
	Modified  []uint32 // Store: left alone
	UIDNext   uint32
	ModSeq    uint64 // List: highest; Store: given to the changed ones
	Rows      []Row  // Rows: of the messages asked for that exist
	Bytes     int64
	Messages  int64

	// Partial: what Store and Expunge did was not told, nor the sizes of Rows;
	// List told octets and messages instead of UIDs.
	Partial bool
}

// History is what clients asked and were told. Its methods may be called from
// any goroutine.
type History struct {
	clock atomic.Int64

	mu  sync.Mutex // guards ops
	ops []porcupine.Operation
}

// New returns an empty history.
func New() *History { return new(History) }

// Call is a question under way. It ends with one of its methods.
type Call struct {
	h      *History
	client int
	in     Input
	at     int64
}

// Call notes that a client asks.
func (h *History) Call(client int, in Input) *Call {
	return &Call{h: h, client: client, in: in, at: h.clock.Add(1)}
}

// Refine replaces the question by what was really asked.
func (c *Call) Refine(in Input) { c.in = in }

// Return notes the answer.
func (c *Call) Return(out Output) { c.end(out, c.h.clock.Add(1)) }

// Unknown notes that there is none, and that it may happen yet.
func (c *Call) Unknown() {
	if c.in.Kind < List {
		c.end(Output{unknown: true}, math.MaxInt64)
	}
}

// Drop forgets a question that was refused: it did not and will not happen.
func (c *Call) Drop() {}

func (c *Call) end(out Output, at int64) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.ops = append(c.h.ops, porcupine.Operation{ClientId: c.client, Input: c.in, Call: c.at, Output: out, Return: at})
}

// Len returns the number of questions noted.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// ErrUndecided says that a history was too concurrent to be judged in the time
// given. It comes wrapped, and only if nothing was found to be wrong.
var ErrUndecided = errors.New("not judged in time")

// Check returns nil if some order explains all answers. limit bounds the search
// for each account.
func (h *History) Check(limit time.Duration) error {
	h.mu.Lock()
	ops := slices.Clone(h.ops)
	h.mu.Unlock()
	var bad, late []string
	for account, list := range byAccount(ops) {
		number(list)
		switch judge(list, limit) {
		case porcupine.Ok:
		case porcupine.Unknown:
			late = append(late, fmt.Sprintf("%s: %d operations in %v", account, len(list), limit))
		default:
			bad = append(bad, fmt.Sprintf("%s: no order explains these answers:\n%s", account, explain(list, limit)))
		}
	}
	switch {
	case bad != nil:
		slices.Sort(bad)
		return fmt.Errorf("history: %s", strings.Join(bad, "\n"))
	case late != nil:
		return fmt.Errorf("history: %w: %s", ErrUndecided, strings.Join(late, ", "))
	}
	return nil
}

// soon are how many answers later at the most a question without one is first
// supposed to have been done.
var soon = []int{6, 30}

// judge looks for an order. What happened late or never is what makes the search
// long, and is rare: so an order in which nothing happened late is looked for first.
func judge(ops []porcupine.Operation, limit time.Duration) porcupine.CheckResult {
	number(ops)
	for _, within := range soon {
		if porcupine.CheckOperationsTimeout(modelFor(ops, within), ops, limit/10) == porcupine.Ok {
			return porcupine.Ok
		}
	}
	return porcupine.CheckOperationsTimeout(modelFor(ops, len(ops)), ops, limit)
}

// Write puts a page for a browser that shows the history of one account into
// the file name.
func (h *History) Write(account, name string, limit time.Duration) error {
	h.mu.Lock()
	ops := byAccount(h.ops)[account]
	h.mu.Unlock()
	number(ops)
	_, info := porcupine.CheckOperationsVerbose(modelFor(ops, len(ops)), ops, limit)
	return porcupine.VisualizePath(modelFor(ops, len(ops)), info, name)
}

func byAccount(ops []porcupine.Operation) map[string][]porcupine.Operation {
	out := map[string][]porcupine.Operation{}
	for _, o := range ops {
		a := o.Input.(Input).Account
		out[a] = append(out[a], o)
	}
	return out
}

// explain shows the shortest beginning of a history that has no order, or one
// nearly so short if finding it takes over limit: its last operations, the answer
// at the end among them.
func explain(ops []porcupine.Operation, limit time.Duration) string {
	ends := make([]int64, 0, len(ops))
	for _, o := range ops {
		ends = append(ends, o.Return)
	}
	slices.Sort(ends)
	at := func(end int64) []porcupine.Operation { // what was asked by then
		var list []porcupine.Operation
		for _, o := range ops {
			if o.Call > end {
				continue
			}
			if o.Return > end { // the answer is not known yet
				o.Return, o.Output = math.MaxInt64, Output{unknown: true}
				if o.Input.(Input).Kind >= List {
					continue
				}
			}
			list = append(list, o)
		}
		return list
	}
	lo, hi := 0, len(ends)-1
	for end := time.Now().Add(limit); lo < hi && time.Now().Before(end); {
		mid := (lo + hi) / 2
		part := at(ends[mid])
		if judge(part, limit/20) == porcupine.Illegal {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	list := at(ends[hi])
	slices.SortFunc(list, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	var b strings.Builder
	for _, o := range list[max(0, len(list)-30):] {
		end := fmt.Sprint(o.Return)
		if o.Return == math.MaxInt64 {
			end = "never"
		}
		fmt.Fprintf(&b, "  client %d [%d, %s] %s\n", o.ClientId, o.Call, end, describe(o.Input, o.Output))
	}
	return b.String()
}

func describe(input, output any) string {
	in, out := input.(Input), output.(Output)
	var b strings.Builder
	fmt.Fprintf(&b, "%v", in.Kind)
	switch in.Kind {
	case Append:
		fmt.Fprintf(&b, " of %d octets", in.Size)
	case Deliver:
		fmt.Fprintf(&b, " of %d octets, key %s, force %t", in.Size, in.Key, in.Force)
		if in.Limit != nil {
			fmt.Fprintf(&b, ", limit %+v", *in.Limit)
		}
	case Store:
		fmt.Fprintf(&b, " %v action %d flags %x", in.UIDs, in.Action, in.Flags)
		if in.Since != nil {
			fmt.Fprintf(&b, " unless changed since %d", *in.Since)
		}
	case Expunge, Rows:
		fmt.Fprintf(&b, " %v", in.UIDs)
	}
	if out.unknown {
		return b.String() + ": not known"
	}
	fmt.Fprintf(&b, ": %+v", out)
	return b.String()
}
