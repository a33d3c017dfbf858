//go:build !planted_flush

package seglog

import "github.com/postern-mail/postern/shared/fsx"

// flush makes a batch durable.
func flush(f fsx.File) error { return f.Sync() }
