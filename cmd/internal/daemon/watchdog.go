package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// notify tells the service manager, if there is one (sd_notify(3)).
func notify(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	c, err := net.Dial("unixgram", name)
	if err != nil {
		return // the manager's time-out says so
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}

// watchdogEvery is how often the service manager wants a sign of life; 0 when it
// wants none. A sign at half of its limit leaves room for a slow moment.
func watchdogEvery(getenv func(string) string) time.Duration {
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// watchdog gives the service manager a sign of life as long as the node answers
// on its admin socket as an operator's call would be answered. When it does not,
// the manager ends and starts it.
func watchdog(ctx context.Context, every time.Duration, alive func(context.Context) error, log *slog.Logger) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		look, cancel := context.WithTimeout(ctx, every)
		err := alive(look)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			notify("WATCHDOG=1")
		default:
			log.Error("this node does not answer itself: no sign of life for the service manager", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// answersOn asks a node on its admin socket whether it is alive.
func answersOn(socket string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // each look goes the whole way
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
}
