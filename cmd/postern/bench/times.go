package bench

import (
	"math"
	"sync"
	"time"
)

// steps is how many buckets a doubling of time has: a percentile is exact to
// 2 %.
const steps = 32

// Times counts how long things took. The zero Times is empty; any number of
// goroutines may use it.
type Times struct {
	mu     sync.Mutex // guards what follows
	counts [64 * steps]uint32
	n      int
	sum    time.Duration
	most   time.Duration
}

func bucket(d time.Duration) int {
	us := float64(max(d, time.Microsecond)) / float64(time.Microsecond)
	return min(int(math.Log2(us)*steps), 64*steps-1)
}

// Add counts one.
func (t *Times) Add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[bucket(d)]++
	t.n++
	t.sum += max(d, 0)
	t.most = max(t.most, d)
}

// Percentiles are in milliseconds.
type Percentiles struct {
	Count int     `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func ms(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*1000) / 1000
}

// Percentiles sums up.
func (t *Times) Percentiles() Percentiles {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := Percentiles{Count: t.n, Max: ms(t.most)}
	if t.n == 0 {
		return p
	}
	p.Mean = ms(t.sum / time.Duration(t.n))
	for _, q := range []struct {
		share float64
		to    *float64
	}{{0.5, &p.P50}, {0.9, &p.P90}, {0.99, &p.P99}, {0.999, &p.P999}} {
		*q.to = ms(t.at(int(math.Ceil(q.share * float64(t.n)))))
	}
	return p
}

// at is the time that n of those counted took at most.
func (t *Times) at(n int) time.Duration {
	seen := 0
	for b, c := range t.counts {
		if seen += int(c); seen >= n {
			upper := math.Exp2(float64(b+1)/steps) * float64(time.Microsecond)
			return min(time.Duration(upper), t.most)
		}
	}
	return t.most
}
