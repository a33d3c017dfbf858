//go:build planted_quota

package fsm

import "github.com/postern-mail/postern/backend/command"

// Planted: a quota is passed by the message that reaches it.
func (a *account) room(_, _ int64) command.Code {
	switch {
	case a.LimitBytes == 0 || a.LimitCount == 0:
		return command.QuotaZero
	case a.LimitBytes > 0 && a.bytes > a.LimitBytes, a.LimitCount > 0 && a.count > a.LimitCount:
		return command.OverQuota
	}
	return command.OK
}
