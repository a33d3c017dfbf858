//go:build !race

package replicatest

// Slow stretches times where the race detector slows the program.
const Slow = 1
