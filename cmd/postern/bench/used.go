package bench

import "time"

// Used is what the process of a node has used.
type Used struct {
	Name   string  `json:"name"`
	Role   string  `json:"role"`
	PID    int     `json:"pid"`
	CPU    float64 `json:"cpu_seconds"`
	Cores  float64 `json:"cores"` // CPU by the time measured
	Memory int64   `json:"memory"`
}

// Processes looks at processes on this machine; a node that does not run is
// left out.
func Processes(nodes []Used) []Used {
	out := make([]Used, 0, len(nodes))
	for _, n := range nodes {
		cpu, memory, ok := look(n.PID)
		if !ok {
			continue
		}
		n.CPU, n.Memory = cpu.Seconds(), memory
		out = append(out, n)
	}
	return out
}

// since is what was used between two looks, by processes that both have seen.
func since(before, after []Used, seconds float64) []Used {
	at := map[int]Used{}
	for _, u := range before {
		at[u.PID] = u
	}
	var out []Used
	for _, u := range after {
		was, ok := at[u.PID]
		if !ok || u.Name != was.Name {
			continue
		}
		u.CPU = round(u.CPU-was.CPU, 100)
		u.Cores = round(u.CPU/max(seconds, float64(time.Millisecond)/float64(time.Second)), 1000)
		out = append(out, u)
	}
	return out
}

func round(v, unit float64) float64 { return float64(int64(v*unit+0.5)) / unit }
