package seglog

import "github.com/hashicorp/raft"

// entryOverhead is counted for each cached entry besides its data.
const entryOverhead = 128

// cache holds the most recent entries, bounded in bytes, so that replication
// and applying read from memory. Log.mu guards it.
type cache struct {
	limit int64
	size  int64
	ring  []raft.Log // a power of two long
	lo    uint64     // index of the oldest entry held
	n     int
}

func cost(e *raft.Log) int64 { return int64(len(e.Data)+len(e.Extensions)) + entryOverhead }

func (c *cache) at(index uint64) *raft.Log { return &c.ring[index&uint64(len(c.ring)-1)] }

// bound makes limit the octets held from now on.
func (c *cache) bound(limit int64) {
	c.limit = limit
	for c.size > max(limit, 0) && c.n > 0 {
		c.dropBefore(c.lo + 1)
	}
}

// push adds the entry after the newest one.
func (c *cache) push(e *raft.Log) {
	if c.limit <= 0 {
		return
	}
	if c.n > 0 && e.Index != c.lo+uint64(c.n) {
		c.dropFrom(0)
	}
	if c.n == 0 {
		c.lo = e.Index
	}
	if c.n == len(c.ring) {
		c.grow()
	}
	*c.at(e.Index) = *e
	c.n++
	c.size += cost(e)
	c.bound(c.limit)
}

func (c *cache) grow() {
	old := c.ring
	c.ring = make([]raft.Log, max(64, 2*len(old)))
	for i := range c.n {
		index := c.lo + uint64(i)
		*c.at(index) = old[index&uint64(len(old)-1)]
	}
}

// get returns an entry, nil if it is not held.
func (c *cache) get(index uint64) *raft.Log {
	if index < c.lo || index >= c.lo+uint64(c.n) {
		return nil
	}
	return c.at(index)
}

// dropBefore forgets the entries below index.
func (c *cache) dropBefore(index uint64) {
	for c.n > 0 && c.lo < index {
		e := c.at(c.lo)
		c.size -= cost(e)
		*e = raft.Log{}
		c.lo++
		c.n--
	}
}

// dropFrom forgets index and the entries above it.
func (c *cache) dropFrom(index uint64) {
	for c.n > 0 && c.lo+uint64(c.n) > index {
		e := c.at(c.lo + uint64(c.n) - 1)
		c.size -= cost(e)
		*e = raft.Log{}
		c.n--
	}
}
