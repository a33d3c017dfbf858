/*
Package sim runs relays, a pair and its witness in one process, on a network,
disks and a clock that are simulated, and looks whether the pair keeps its
promises while these fail. What runs is the product's own code: package voter
with hashicorp/raft over mutual TLS, seglog, the state machine on pebble, package
mailbox, the LMTP server, and on the relays queue, jobctl and the LMTP agent.

	go test ./integration/sim                      # 50 seeds
	go test ./integration/sim -seeds 1000          # as make nightly does, without the race detector
	go test ./integration/sim -run TestSeeds -seed 17 -v   # one, again

A run lasts some virtual seconds. Everything about it comes from its seed: what
the clients do, which faults begin and end when, how late each segment of a
stream is, and what a power cut leaves on a disk. After the faults the network
is healed, everything runs again, and the run is judged:

  - Each message that a relay acknowledged is in each of its mailboxes once, and
    every other message at most once.
  - Both replicas have the same digest, and their rows agree with it; every body
    can be read and is what was sent.
  - The histories of flags, UIDs and quotas are linearizable (package history).
    That includes: no UID is given twice, MODSEQ grows, and nobody was answered
    by a replica whose lease was lost.
  - Nothing ended that had no fault to end it, and no relay gave mail back.

TestPauses has no faults but pauses of the replica that serves.

# What is not simulated

A pause of a process stops what crosses its border: its network, its disk and
the answers of its clients. Its timers run on. Pebble's files are on a disk of
their own, which loses unsynced data but is neither slow nor full.

# Determinism

The clock is virtual (testing/synctest), so that a run does not depend on how fast
the machine is. The same seed gives the same plan: what clients do and when faults
begin and end, except that a fault aimed at the replica that serves finds the one
that does. It does not give the same interleaving of goroutines that are ready at
the same instant: the order in which Go's scheduler runs them, the choice of a
select with several ready cases and the order of maps are not ours to set.

With -seed a run has one processor, and the generator that raft draws its election
time-outs from is seeded too: repeated, it begins and ends the same faults at the
same times, and differs by less than a millisecond here and there. Among many
seeds that run side by side raft's draws are nobody's, so that a failure seen there
can need some repetitions (-count) of its seed.
*/
package sim
