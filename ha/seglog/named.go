//go:build !planted_dirsync

package seglog

// named makes the name of a file that was reserved durable.
func (k *keeper) named() error { return k.l.fs.SyncDir(k.l.cfg.Dir) }
