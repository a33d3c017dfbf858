package daemon

import (
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
)

var errNoGossip = fmt.Errorf("%w: this node takes no part in gossip", admin.ErrConflict)

// setKeys makes keys the ones in use. The caller holds keysMu.
func (n *Node[T]) setKeys(keys [][]byte) error {
	if err := n.gossip.SetKeys(keys); err != nil {
		return err
	}
	n.keys = keys
	return nil
}

// keyRing names the keys in use, the one that encrypts first.
func (n *Node[T]) keyRing() (admin.KeyRing, error) {
	if n.gossip == nil {
		return admin.KeyRing{}, errNoGossip
	}
	n.keysMu.Lock()
	defer n.keysMu.Unlock()
	return n.ring(), nil
}

func (n *Node[T]) ring() admin.KeyRing {
	ring := admin.KeyRing{File: n.common.Gossip.KeyFile}
	for _, key := range n.keys {
		ring.Keys = append(ring.Keys, gossip.KeyID(key))
	}
	return ring
}

// changeKeys changes the file of keys, so that a restart finds them, and then
// the keys in use.
func (n *Node[T]) changeKeys(in admin.KeyChange) (admin.KeyRing, error) {
	if n.gossip == nil {
		return admin.KeyRing{}, errNoGossip
	}
	key, err := base64.StdEncoding.DecodeString(string(in.Key))
	if err != nil {
		return admin.KeyRing{}, fmt.Errorf("%w: %w", admin.ErrBadRequest, errors.New("the key is not in base64"))
	}
	n.keysMu.Lock()
	defer n.keysMu.Unlock()
	keys, err := gossip.ChangeKeys(n.common.Gossip.KeyFile, in.Op, in.ID, key, n.keys)
	if err == nil {
		err = n.setKeys(keys)
	}
	if err != nil {
		return admin.KeyRing{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	ring := n.ring()
	n.Log.Info("gossip keys changed", "change", in.Op, "keys", ring.Keys)
	return ring, nil
}
