package daemon

import (
	"fmt"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

// configuration is what the node uses now.
func (n *Node[T]) configuration() admin.Config {
	c := n.Live.Current()
	out := admin.Config{Values: config.Values(c), File: n.file}
	for _, s := range config.Settings(c) {
		out.Settings = append(out.Settings, admin.Setting(s))
	}
	return out
}

// compareConfig says what would change if the file of this node held that text.
// The environment and the flags of this process stay what they are, and the
// text is judged by this release.
func (n *Node[T]) compareConfig(in admin.ConfigText) (admin.ConfigDifferences, error) {
	c := n.Live.Current()
	next, err := config.Parse[T](in.Name, []byte(in.Text), config.Env, config.Flags(c))
	if err != nil {
		return admin.ConfigDifferences{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	out := admin.ConfigDifferences{Differences: []admin.ConfigDifference{}}
	for _, d := range config.Compare(c, next) {
		out.Differences = append(out.Differences, admin.ConfigDifference(d))
	}
	return out, nil
}
