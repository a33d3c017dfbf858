/*
Package jobctl is the job controller: it decides when a queued message is tried
again, how many deliveries run at once for each destination and channel, when
the sender is warned, and when a message is returned.

	queue -> track -> waiting -> ready, by destination -> attempt -> agent
	                     ^                                   |
	                     `---- deferred ---------------------+-> report, remove

A job is one message for one destination, a channel and a next hop. Its
schedule is in the envelope file; the controller's own state is in memory and
made anew from the queue at start.

What it keeps true:

  - A message leaves the queue only when every recipient is delivered, or given
    up and, where the sender is to be told, the notification is in the queue.
    That a recipient is given up is on the disk before the notification is made,
    so a crash makes the same notification again, under the same id.
  - What was made of a recipient of another message, the members of a list, a
    forward or a report, is not tried before that recipient has ended on the
    disk. It is therefore still in the queue, under its id, whenever a crash
    makes it again, and nothing is sent twice for that.
  - Jobs of one message change its envelope one after the other.
  - Memory is bounded: at most MaxTracked jobs are known, of one destination at
    most a share of them while others wait. The rest stays on the disk and is
    found by scanning again. One dead destination starves nobody.
  - A destination that does not answer is probed by one job at a time, with
    growing pauses; its other jobs wait without being tried.
  - Ages and intervals come from the monotonic clock, so a jump of the wall clock
    while the process runs returns nothing early; nothing is returned for its age
    without several attempts having failed.
  - A message that was being worked on when the process died is counted; after
    three times it is held. Counted messages run one at a time.
  - Held messages are not tried, warned about or returned. Those that are held
    for their recipients go on when these are no longer on hold (Config.OnHold);
    those that were held by an operator, or because they broke something, wait
    for Release.

Priority orders the ready jobs of a destination, then age does. Destinations
take turns.

Package jobctl does not know how to deliver (packages below deliver) or how a
notification looks (package bounce).
*/
package jobctl
