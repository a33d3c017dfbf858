package pop3d

import (
	"errors"
	"syscall"
)

// isExhausted reports that the process or the host is out of descriptors.
func isExhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
