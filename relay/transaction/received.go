package transaction

import (
	"crypto/tls"

	"github.com/postern-mail/postern/shared/message"
)

// appendReceived appends the Received field of this hop (RFC 5321 4.4). It
// names no recipient: the stored message is the same for all of them.
func (t *Transaction) appendReceived(b []byte) []byte {
	r := message.Received{
		Helo: t.src.Helo, By: t.cfg.Hostname, With: t.src.Protocol, ID: t.env.QueueID, Time: t.env.Arrival,
	}
	if t.src.Client.IsValid() {
		r.ClientIP = t.src.Client.Addr()
	}
	if cs := t.src.TLS; cs != nil {
		r.TLS = tls.VersionName(cs.Version) + " with cipher " + tls.CipherSuiteName(cs.CipherSuite)
	}
	return message.AppendReceived(b, r)
}
