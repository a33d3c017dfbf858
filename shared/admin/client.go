package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/postern-mail/postern/shared/tlsconf"
)

// maxAnswer bounds what a client reads.
const maxAnswer = 256 << 20

// Client calls the methods of one node.
type Client struct {
	http *http.Client
	base string
}

// Error is a refusal by the node.
type Error struct {
	Status int // of HTTP
	Text   string
}

func (e *Error) Error() string { return e.Text }

// Is lets callers test for ErrNotFound, ErrConflict and ErrBadRequest.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == ErrNotFound
	case http.StatusConflict:
		return target == ErrConflict
	case http.StatusBadRequest:
		return target == ErrBadRequest
	}
	return false
}

// NewUnixClient talks over the socket at path.
func NewUnixClient(path string) *Client {
	var d net.Dialer
	return &Client{base: "http://node", http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
		IdleConnTimeout:    30 * time.Second,
		DisableCompression: true,
	}}}
}

// NewTLSClient talks to node at addr with the certificate of store, which must
// hold the role admin.
func NewTLSClient(addr, node string, store *tlsconf.Store) *Client {
	return &Client{base: "https://" + addr, http: &http.Client{Transport: &http.Transport{
		TLSClientConfig:    store.Client(node, tlsconf.RelayMX, tlsconf.RelayProxy, tlsconf.Backend, tlsconf.Witness),
		IdleConnTimeout:    30 * time.Second,
		DisableCompression: true,
	}}}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call calls m. A refusal by the node is an *Error; any other error means that
// the outcome is not known.
func Call[In, Out any](ctx context.Context, c *Client, m Method[In, Out], in In) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/"+Version+"/"+m.Name, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("%s: %w", m.Name, errors.Unwrap(err)) // without the URL, which says nothing
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		var e errorBody
		if err := dec.Decode(&e); err != nil || e.Error == "" {
			e.Error = resp.Status
		}
		return out, fmt.Errorf("%s: %w", m.Name, &Error{resp.StatusCode, e.Error})
	}
	if err := dec.Decode(&out); err != nil {
		return out, fmt.Errorf("%s: answer: %w", m.Name, err)
	}
	return out, nil
}

// Page fetches one of the pages beside the API, such as /metrics.
func Page(ctx context.Context, c *Client, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = &Error{resp.StatusCode, resp.Status}
	}
	return b, err
}
