//go:build !planted_quota

package fsm

import "github.com/postern-mail/postern/backend/command"

// room says whether n messages of bytes octets fit the quota.
func (a *account) room(bytes, n int64) command.Code {
	switch {
	case a.LimitBytes == 0 || a.LimitCount == 0:
		return command.QuotaZero
	case a.LimitBytes > 0 && bytes > a.LimitBytes-a.bytes, a.LimitCount > 0 && n > a.LimitCount-a.count:
		return command.OverQuota
	}
	return command.OK
}
