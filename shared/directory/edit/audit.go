package edit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// syncEvery is after how many lines the log is made sure of at the latest.
const syncEvery = 100

// Audit is a log of changes: one JSON object a line, only ever added to.
type Audit struct {
	file    *os.File
	who     string
	as      string
	now     func() time.Time
	pending int
}

// line is one line of the log.
type line struct {
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`     // of this host
	BindDN  string    `json:"bind_dn"` // of the directory
	Op      Op        `json:"op"`
	Kind    Kind      `json:"kind"`
	DN      string    `json:"dn"`
	NewDN   string    `json:"new_dn,omitempty"`
	Changes []Edit    `json:"changes"`
	Error   string    `json:"error,omitempty"` // it was tried, and this came of it
}

// OpenAudit opens the log in file, which only its owner may read, for changes
// that who makes with the rights of bindDN.
func OpenAudit(file, who, bindDN string) (*Audit, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &Audit{file: f, who: who, as: bindDN, now: time.Now}, nil
}

func (a *Audit) write(res *Result, err error) error {
	l := line{a.now().UTC(), a.who, a.as, res.Op, res.Kind, res.DN, res.NewDN, res.Changes, ""}
	if err != nil {
		l.Error = err.Error()
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if _, err := a.file.Write(append(text, '\n')); err != nil {
		return err
	}
	if a.pending++; a.pending < syncEvery {
		return nil
	}
	a.pending = 0
	return a.file.Sync()
}

// Close makes sure that all lines are on disk.
func (a *Audit) Close() error { return errors.Join(a.file.Sync(), a.file.Close()) }
