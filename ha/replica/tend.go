package replica

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// tendEvery is how often the serving replica looks after the group.
	tendEvery = time.Second
	// alarmShare and holdShare are the parts of a log's room, in percent, at
	// which an alarm is raised and writes are held back (rule W5).
	alarmShare = 50
	holdShare  = 90
)

// tend looks after the group while this replica serves.
func (r *Replica) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !r.Serving() {
			r.room.held.Store(false)
			r.alarms.set(nil)
			r.seen(nil)
			continue
		}
		list := r.Members(ctx)
		r.seen(list)
		r.promote(list)
		alarms := copiesAlarm(list)
		full, held := roomAlarm(list)
		if held != r.room.held.Swap(held) {
			r.log.Warn("writes held back because of the room for a log", "held", held, "why", full)
		}
		if full != "" {
			alarms = append(alarms, full)
		}
		r.alarms.set(alarms)
		r.leaveIfSlow(ctx, list)
	}
}

func (r *Replica) seen(list []Member) {
	if r.cfg.OnMembers != nil {
		r.cfg.OnMembers(list)
	}
}

// copiesAlarm says how many copies there are when there are too few.
func copiesAlarm(list []Member) (alarms []string) {
	copies, voters, dead := 0, 0, ""
	for i := range list {
		m := &list[i]
		if !m.Voter {
			alarms = append(alarms, fmt.Sprintf("%s is being brought up to date", m.Name))
			continue
		}
		voters++
		if !m.Alive {
			dead += " " + m.Name
		}
		if !m.Witness && m.Alive {
			copies++
		}
	}
	if dead != "" {
		alarms = append(alarms, "away:"+dead)
	}
	if copies < 2 {
		alarms = append(alarms, "one data copy is left")
	}
	if voters < 3 {
		alarms = append(alarms, fmt.Sprintf("%d members vote: the loss of one stops the pair", voters))
	}
	return alarms
}

// roomAlarm finds the log that is nearest to its limit. A log grows while a data
// replica is away, because F stands still.
func roomAlarm(list []Member) (alarm string, hold bool) {
	worst := uint64(0)
	for i := range list {
		m := &list[i]
		if !m.Alive || m.LogLimit == 0 {
			continue
		}
		if share := 100 * m.LogBytes / m.LogLimit; share >= alarmShare && share > worst {
			worst = share
			alarm = fmt.Sprintf("the log on %s takes %d %% of its room", m.Name, share)
		}
	}
	if worst >= holdShare {
		return alarm + ": no more is stored until the member that is away is back or evicted", true
	}
	return alarm, false
}

// alarms are what an operator has to know.
type alarms struct {
	mu   sync.Mutex // guards list
	list []string
	log  func(on bool, alarm string)
}

// set replaces the alarms and logs those that come and go.
func (a *alarms) set(list []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range list {
		if a.log != nil && !slices.Contains(a.list, s) {
			a.log(true, s)
		}
	}
	for _, s := range a.list {
		if a.log != nil && !slices.Contains(list, s) {
			a.log(false, s)
		}
	}
	a.list = list
}

func (a *alarms) get() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}
