package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/cmd/internal/logcopy"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/admin"
)

// States of a job.
const (
	jobRuns   = "running"
	jobDone   = "done"
	jobFailed = "failed"
)

// job is a task that an operator asked for, under way or the last of its kind.
type job struct {
	admin.UpkeepJob
	progress *atomic.Int64
}

// slot is the kind of a task: there is one of each at a time. Compaction and
// scrub, which may take hours, keep nobody from a backup, as they do not when
// the schedules begin them.
func slot(task string) string {
	if task == admin.TaskCompact || task == admin.TaskScrub {
		return task
	}
	return ""
}

// start begins a task that an operator asked for.
func (u *upkeep) start(in admin.UpkeepTask) (admin.UpkeepJob, error) {
	do, err := u.task(&in)
	if err != nil {
		return admin.UpkeepJob{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	kind := slot(in.Task)
	if j := u.last[kind]; j != nil && j.State == jobRuns {
		return j.UpkeepJob, fmt.Errorf("%w: %s is under way", admin.ErrConflict, j.Task)
	}
	if u.run.Err() != nil {
		return admin.UpkeepJob{}, fmt.Errorf("%w: the replica stops", admin.ErrConflict)
	}
	j := &job{
		admin.UpkeepJob{Pair: u.cfg.Pair, Node: u.cfg.Node, Task: in.Task, State: jobRuns, Began: u.cfg.Now().UTC()}, new(atomic.Int64),
	}
	u.last[kind], u.newest = j, kind
	u.jobs.Go(func() {
		result, err := do(u.run, j.progress)
		u.mu.Lock()
		defer u.mu.Unlock()
		j.State, j.Result, j.Ended, j.Done = jobDone, result, u.cfg.Now().UTC(), j.progress.Load()
		if err != nil {
			j.State, j.Error = jobFailed, err.Error()
		}
	})
	return j.UpkeepJob, nil
}

// poll says how far the last task is of the kind that is asked for; without one,
// as releases before ask, the one that was begun last.
func (u *upkeep) poll(task string) admin.UpkeepJob {
	u.mu.Lock()
	defer u.mu.Unlock()
	kind := u.newest
	if task != "" {
		kind = slot(task)
	}
	j := u.last[kind]
	if j == nil {
		return admin.UpkeepJob{Pair: u.cfg.Pair, Node: u.cfg.Node}
	}
	out := j.UpkeepJob
	if out.State == jobRuns {
		out.Done = j.progress.Load()
	}
	return out
}

type jobFunc func(ctx context.Context, done *atomic.Int64) (result string, err error)

// task checks a request and returns what it asks for.
func (u *upkeep) task(in *admin.UpkeepTask) (jobFunc, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{admin.ErrBadRequest}, args...)...)
	}
	needsName := in.Task == admin.TaskRemove || in.Task == admin.TaskVerify || in.Task == admin.TaskRestore
	switch {
	case needsName && in.Name == "":
		return nil, bad("which snapshot?")
	case in.CopyTo != "" && !filepath.IsAbs(in.CopyTo):
		return nil, bad("%q is no absolute name of a directory on the node", in.CopyTo)
	}
	switch in.Task {
	case admin.TaskSnapshot:
		return func(ctx context.Context, _ *atomic.Int64) (string, error) { return u.backUp(ctx, in) }, nil
	case admin.TaskRemove:
		return func(context.Context, *atomic.Int64) (string, error) {
			defer u.showSnapshots()
			return "removed", u.forget(in.Name)
		}, nil
	case admin.TaskVerify:
		return func(ctx context.Context, _ *atomic.Int64) (string, error) {
			dir, err := u.keeper.Path(in.Name)
			if err != nil {
				return "", err
			}
			c, err := snapshot.Verify(ctx, dir, logcopy.Open, logcopy.Check)
			return fmt.Sprintf("%d files and %d messages of %d octets are good", c.Files, c.Messages, c.Octets), err
		}, nil
	case admin.TaskRestore:
		if in.Restore == nil || in.Restore.Account == "" || in.Restore.UIDs != nil && in.Restore.Folder == "" {
			return nil, bad("an account is needed, and for single messages a folder")
		}
		if !u.cfg.Serving() {
			return nil, fmt.Errorf("%w: this replica does not serve the pair; hand over to it first", admin.ErrConflict)
		}
		return func(ctx context.Context, done *atomic.Int64) (string, error) {
			return u.restore(ctx, in.Name, in.Restore, done)
		}, nil
	case admin.TaskCompact:
		return func(ctx context.Context, _ *atomic.Int64) (string, error) {
			r, err := u.compact(ctx)
			return fmt.Sprintf("%d of %d segments rewritten, %d octets freed, %d wait", r.Rewrote, r.Looked, r.Freed, r.Dead), err
		}, nil
	case admin.TaskScrub:
		return func(ctx context.Context, _ *atomic.Int64) (string, error) {
			r, err := u.scrub(ctx)
			text := fmt.Sprintf("%d entries and %d messages read, %d damaged, %d repaired", r.Frames, r.Messages, r.Damaged, r.Repaired)
			if err == nil && r.Lost() > 0 {
				err = errors.New(text)
			}
			return text, err
		}, nil
	case admin.TaskCheck:
		return func(ctx context.Context, _ *atomic.Int64) (string, error) {
			index, digest := u.cfg.Machine.Mark()
			verdict, err := u.check(ctx, index, digest)
			if err == nil && strings.HasPrefix(verdict, "is wrong") {
				err = errors.New("this replica " + verdict)
			}
			return "this replica " + verdict, err
		}, nil
	}
	return nil, bad("no task %q", in.Task)
}

// forget removes a snapshot. The last one stays while the log is compacted: what
// the log no longer has is only there, and in rows that may be damaged one day.
func (u *upkeep) forget(name string) error {
	list, err := u.keeper.List()
	if err != nil {
		return err
	}
	compacted := slices.ContainsFunc(u.cfg.Log.Segments(), func(s seglog.Segment) bool { return s.Generation > 0 })
	if compacted && len(list) == 1 && list[0].Name == name {
		return fmt.Errorf("%w: %s is the last snapshot, and the log has been compacted: make another one first, or damaged rows cannot be made anew", admin.ErrConflict, name)
	}
	return u.keeper.Remove(name)
}

// backUp makes a snapshot that stays, and a copy of it elsewhere if asked.
func (u *upkeep) backUp(ctx context.Context, in *admin.UpkeepTask) (string, error) {
	info, err := u.snapshot(in.Name, true)
	if err != nil {
		return "", err
	}
	if in.CopyTo == "" {
		return info.Name, nil
	}
	dir, err := u.keeper.Path(info.Name)
	if err != nil {
		return "", err
	}
	to := filepath.Join(in.CopyTo, info.Name)
	return info.Name + " and " + to, snapshot.CopyOut(ctx, dir, to)
}
