//go:build race

package replica_test

// slow stretches times where the race detector slows the program.
const slow = 4
