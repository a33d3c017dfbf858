/*
Package witness is the voter without data of a pair: it keeps the whole log
for a while, so that one of two data replicas can be away and nothing is lost,
and applies none of it. A process runs one Witness per pair, all on one port
(package replica/raftnet); no mail code is linked in.

The rules it keeps, with the numbers of the design:

  - W1: entries are kept whole, message bodies included.
  - W2: the log is trimmed strictly below the floor F, the smallest applied
    index of the data replicas. F itself is kept; segments are used again.
  - W3: its snapshot carries the witness's marker and is never sent. A data
    replica would refuse it as well.
  - W4: when it leads, which an election can bring about while the data
    replicas are behind or away, it refuses clients, waits until a data replica
    is alive and has caught up, and hands over to it.
  - W6: its id is random and lives in its directory; see package voter.
  - W7: its time-outs are those of the data replicas.

The room that the log takes while a data replica is away is not limited here:
Config.Room tells the serving replica of it, which raises alarms and holds
writes back (rule W5).
*/
package witness
