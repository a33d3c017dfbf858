package group

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Create makes the directories of a node's members of groups that are being
// created; kind makes one. What is there already stays as it is. A member that
// its group has had before is refused: it is made anew by an operator, under
// another id.
func Create(node string, t config.NodeTLS, groups []config.Group, r *config.Raft, log *slog.Logger, kind func(voter.Config) error) error {
	store, err := tlsconf.Load(tlsconf.Files{CertFile: t.Cert, KeyFile: t.Key, CAFile: t.CA})
	if err != nil {
		log.Warn("without a certificate the other members are not asked whether they know this one", "err", err)
	}
	for i := range groups {
		g := &groups[i]
		m, err := Member(node, g, r, log)
		if err != nil {
			return err
		}
		if r.NewPair == "newest" {
			m.Format = version.Format
		}
		m.OnFatal = func(err error) { log.Error("create", "pair", g.Pair, "err", err); os.Exit(1) }
		if store != nil {
			m.ClientTLS, m.Authorize, m.NodeOf = Client(store), Authorize, NodeOf
			if err := voter.InUse(context.Background(), m); err != nil {
				return fmt.Errorf("pair %s: %w; have it made by postern pair replace or add", g.Pair, err)
			}
		}
		if err := MakeDir(g); err != nil {
			return err
		}
		if err := kind(m); err != nil {
			return fmt.Errorf("pair %s: %w", g.Pair, err)
		}
		log.Info("member created", "pair", g.Pair, "dir", g.Dir, "id", m.ID)
	}
	return nil
}
