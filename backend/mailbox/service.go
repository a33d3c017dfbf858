package mailbox

import (
	"context"
	"errors"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

var errUnfinished = errors.New("not available")

// Config is what New needs.
type Config struct {
	Log Log
}

// Service is the one door to the mail of a pair.
type Service struct{ cfg Config }

// New returns a Service.
func New(cfg Config) (*Service, error) { return &Service{cfg: cfg}, nil }

// Ready returns nil when this replica serves, or *ErrNotServing.
func (s *Service) Ready(ctx context.Context) error { return s.cfg.Log.Confirm(ctx) }

// Deliver stores one message for its recipients.
func (s *Service) Deliver(ctx context.Context, d *Delivery) ([]DeliveryResult, error) {
	return nil, errUnfinished
}

// Account opens an account.
func (s *Service) Account(ctx context.Context, name string) (*Account, error) {
	return nil, errUnfinished
}

// Accounts lists account names in order.
func (s *Service) Accounts(ctx context.Context, after string, limit int) ([]string, error) {
	return nil, errUnfinished
}

// Account is one user's mailboxes.
type Account struct{}

func (a *Account) Name() string                               { return "" }
func (a *Account) ID() uint64                                 { return 0 }
func (a *Account) List(ctx context.Context) ([]Info, error)   { return nil, errUnfinished }
func (a *Account) Delete(ctx context.Context, n string) error { return errUnfinished }
func (a *Account) Status(ctx context.Context, name string) (Info, error) {
	return Info{}, errUnfinished
}

func (a *Account) Create(ctx context.Context, name string, specialUse []string) (Info, error) {
	return Info{}, errUnfinished
}
func (a *Account) Rename(ctx context.Context, from, to string) error { return errUnfinished }
func (a *Account) Subscribe(ctx context.Context, name string, on bool) error {
	return errUnfinished
}

func (a *Account) Append(ctx context.Context, name string, msgs []AppendMessage) (uint32, []uint32, error) {
	return 0, nil, errUnfinished
}

func (a *Account) Quota(ctx context.Context) (bytes, messages int64, limit mail.Quota, err error) {
	return 0, 0, mail.Quota{}, errUnfinished
}

func (a *Account) Open(ctx context.Context, name string, readOnly bool) (*View, error) {
	return nil, errUnfinished
}

// View is one session's picture of a mailbox.
type View struct{}

func (v *View) Info() Info                        { return Info{} }
func (v *View) ReadOnly() bool                    { return false }
func (v *View) Keywords() []string                { return nil }
func (v *View) Len() int                          { return 0 }
func (v *View) UID(seq int) uint32                { return 0 }
func (v *View) Seq(uid uint32) (seq int, ok bool) { return 0, false }
func (v *View) Changed() <-chan struct{}          { return nil }
func (v *View) Close()                            {}
func (v *View) Rows(ctx context.Context, seqs []int, f func(seq int, row *Row) error) error {
	return errUnfinished
}

func (v *View) Sync(ctx context.Context, expunge bool) (Changes, error) {
	return Changes{}, errUnfinished
}

func (v *View) ChangedSince(ctx context.Context, since uint64) (changed, vanished []uint32, complete bool, err error) {
	return nil, nil, false, errUnfinished
}

func (v *View) Store(ctx context.Context, uids []uint32, op StoreOp, flags Flags, keywords []string, unchangedSince *uint64) (StoreResult, error) {
	return StoreResult{}, errUnfinished
}

func (v *View) Expunge(ctx context.Context, uids []uint32, force bool) ([]uint32, error) {
	return nil, errUnfinished
}

func (v *View) Copy(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	return CopyResult{}, errUnfinished
}

func (v *View) Move(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	return CopyResult{}, errUnfinished
}

func (v *View) Message(ctx context.Context, row *Row) (*Content, error) {
	return nil, errUnfinished
}

// Content is one message's content.
type Content struct{}

func (c *Content) Part() *message.Part { return nil }
func (c *Content) Size() int64         { return 0 }
func (c *Content) Bytes(ctx context.Context, off, n int64) ([]byte, error) {
	return nil, errUnfinished
}

func (c *Content) Stream(ctx context.Context, off, n int64, f func(piece []byte) error) error {
	return errUnfinished
}
func (c *Content) Close() {}
