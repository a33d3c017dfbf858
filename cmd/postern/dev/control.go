package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// controlName is the socket of a running cluster in its folder.
const controlName = "dev.sock"

// ControlSocket is the socket by which the cluster in dir starts and stops its
// nodes. It speaks like a node's admin API, with the methods below.
func ControlSocket(dir string) string { return filepath.Join(dir, controlName) }

// The methods of the control socket.
var (
	StartNode   = admin.Method[NodeRequest, NodeProcess]{Name: "dev.start", Mutating: true}
	StopNode    = admin.Method[NodeRequest, NodeProcess]{Name: "dev.stop", Mutating: true}
	RestartNode = admin.Method[NodeRequest, NodeProcess]{Name: "dev.restart", Mutating: true}
	ReplaceNode = admin.Method[ReplaceRequest, NodeProcess]{Name: "dev.replace", Mutating: true}
	ListNodes   = admin.Method[admin.None, NodeProcesses]{Name: "dev.list"}
)

// NodeRequest names a node. Kill ends it by SIGKILL.
type NodeRequest struct {
	Node string `json:"node"`
	Kill bool   `json:"kill,omitempty"`
}

// ReplaceRequest has a node run the program of its tier in the folder Binaries
// from now on, also when the cluster is started again.
type ReplaceRequest struct {
	Node     string `json:"node"`
	Binaries string `json:"binaries"`
}

// NodeProcess is the process of a node, PID 0 when it does not run.
type NodeProcess struct {
	Node string `json:"name"`
	Tier string `json:"role"`
	PID  int    `json:"pid"`
}

// NodeProcesses lists all of them.
type NodeProcesses struct {
	Nodes []NodeProcess `json:"nodes"`
}

// stopNodeWithin is the time of a node to stop before it is killed.
const stopNodeWithin = 15 * time.Second

// operate does something with a node, one thing at a time.
func (c *cluster) operate(ctx context.Context, name string, f func(context.Context, *node, *process) error) (NodeProcess, error) {
	n, p := c.find(name)
	if p == nil {
		return NodeProcess{}, fmt.Errorf("%w: no node %q in this cluster", admin.ErrNotFound, name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	select {
	case c.operator <- struct{}{}:
	case <-ctx.Done():
		return NodeProcess{}, fmt.Errorf("%w: the cluster stops", admin.ErrConflict)
	}
	defer func() { <-c.operator }()
	if err := f(ctx, n, p); err != nil {
		return NodeProcess{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	c.update() // whoever asked finds the pid in cluster.json
	return NodeProcess{n.Name, n.Tier, p.pid()}, nil
}

// control serves the socket until the cluster stops.
func (c *cluster) control() error {
	s := admin.NewServer(slog.New(slog.NewTextHandler(io.Discard, nil)))
	one := func(f func(ctx context.Context, p *process, kill bool) error) func(context.Context, NodeRequest) (NodeProcess, error) {
		return func(ctx context.Context, in NodeRequest) (NodeProcess, error) {
			return c.operate(ctx, in.Node, func(ctx context.Context, _ *node, p *process) error { return f(ctx, p, in.Kill) })
		}
	}
	stop := func(ctx context.Context, p *process, kill bool) {
		grace := stopNodeWithin
		if kill {
			grace = 0
		}
		p.stop(ctx, grace)
	}
	admin.Handle(s, StartNode, one(func(ctx context.Context, p *process, _ bool) error { return p.start(ctx) }))
	admin.Handle(s, StopNode, one(func(ctx context.Context, p *process, kill bool) error {
		stop(ctx, p, kill)
		return nil
	}))
	admin.Handle(s, RestartNode, one(func(ctx context.Context, p *process, kill bool) error {
		stop(ctx, p, kill)
		return p.start(ctx)
	}))
	admin.Handle(s, ReplaceNode, func(ctx context.Context, in ReplaceRequest) (NodeProcess, error) {
		return c.operate(ctx, in.Node, func(ctx context.Context, n *node, p *process) error {
			if err := c.replaceable(n, in.Binaries); err != nil {
				return err
			}
			stop(ctx, p, false)
			n.Bin = in.Binaries
			p.use(c.program(n))
			return errors.Join(c.layout.save(c.dir), p.start(ctx))
		})
	})
	admin.Handle(s, ListNodes, func(context.Context, admin.None) (NodeProcesses, error) {
		var out NodeProcesses
		for _, n := range c.layout.Nodes {
			_, p := c.find(n.Name)
			out.Nodes = append(out.Nodes, NodeProcess{n.Name, n.Tier, p.pid()})
		}
		return out, nil
	})
	l, err := admin.ListenUnix(ControlSocket(c.dir))
	if err != nil {
		return err
	}
	c.services.Go(func() {
		if err := s.Serve(c.ctx, l); c.ctx.Err() == nil {
			c.fail(fmt.Errorf("control socket has ended: %w", err))
		}
	})
	return nil
}
