package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/shared/admin"
)

const (
	// vanishing is how many connections of each kind lose their machine: many
	// more than the load has beside them.
	vanishing = 60
	// freedWithin is the time of a relay to notice.
	freedWithin = 60 * time.Second
)

// halfOpen has users' machines vanish with their connections, as when a lid is
// closed or a firewall forgets.
func halfOpen(ctx context.Context, f *field) error {
	relay := byRole(f.t, "", RoleRelay)[0]
	smtp, imap, err := f.connections(ctx, relay)
	if err != nil {
		return err
	}
	gone := &departed{}
	defer gone.drop()
	for i := range vanishing {
		if err := gone.add(ctx, f, relay, i); err != nil {
			return err
		}
	}
	const most = vanishing / 2 // beside what was there before
	s, i, err := f.connections(ctx, relay)
	if err != nil {
		return err
	}
	if s < smtp+most || i < imap+most {
		return fmt.Errorf("%s counts %d connections and %d sessions with %d more of each", relay, s, i, vanishing)
	}
	a := Action{Kind: Vanish, Node: relay, Ports: gone.ports}
	said := make(chan struct{})
	go func() { // what they say is lost, so that the fault is seen
		defer close(said)
		if f.wait(ctx, settle) == nil {
			gone.say()
		}
	}()
	began := time.Now()
	err = f.act(ctx, a)
	<-said
	if err != nil {
		return err
	}
	const few = vanishing / 10 // others come and go
	freed := f.until(ctx, freedWithin-time.Since(began), func() bool {
		var err error
		s, i, err = f.connections(ctx, relay)
		return err == nil && s < smtp+few && i < imap+few
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	broken := f.expect(freed, "sessions of machines that have vanished end", "%d connections by SMTP and %d by IMAP; %d and %d in all %v after, %d and %d before",
		vanishing, vanishing, s, i, time.Since(began).Round(100*time.Millisecond), smtp, imap)
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

// connections are those that a relay has by SMTP, and by IMAP.
func (f *field) connections(ctx context.Context, relay string) (smtp, imap int, err error) {
	n, err := f.node(relay)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	return s.Connections, s.Sessions, err
}

// departed are the connections of users' machines.
type departed struct {
	ports    []int
	conns    []net.Conn
	sessions []*mailbox.Held
}

// add connects one machine by SMTP and by IMAP.
func (d *departed) add(ctx context.Context, f *field, relay string, i int) error {
	n, err := f.node(relay)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	c, err := f.t.Dial(within, n.SMTP)
	if err != nil {
		return err
	}
	d.conns = append(d.conns, c)
	_ = c.SetDeadline(time.Now().Add(sendWithin)) // an error is seen with the next use
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return err
	}
	if at, ok := c.LocalAddr().(*net.TCPAddr); ok {
		d.ports = append(d.ports, at.Port)
	}
	access := *f.user.Access
	door := slices.IndexFunc(byRole(f.t, "", RoleRelay), func(name string) bool { return name == relay })
	var users []User
	for _, u := range f.t.Users() {
		if u.Pair == f.pair {
			users = append(users, u)
		}
	}
	u := users[i%len(users)]
	h, err := access.Hold(ctx, door, mailbox.User{Login: u.Login, Password: u.Password, Address: u.Address})
	if err != nil {
		return err
	}
	d.sessions = append(d.sessions, h)
	d.ports = append(d.ports, h.Port)
	return nil
}

func (d *departed) say() {
	for _, c := range d.conns {
		_ = c.SetDeadline(time.Now().Add(sendWithin))
		fmt.Fprint(c, "NOOP\r\n") // nobody hears it
	}
	for _, h := range d.sessions {
		h.Say()
	}
}

func (d *departed) drop() {
	for _, c := range d.conns {
		c.Close()
	}
	for _, h := range d.sessions {
		h.Drop()
	}
}
