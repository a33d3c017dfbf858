package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Limits of a request.
const (
	maxBody    = 1 << 20
	maxHeader  = 16 << 10
	readWithin = 10 * time.Second
	// A trace or a digest may read much; past this the answer is given up.
	writeWithin = 2 * time.Minute
)

// Errors a handler returns to choose the status of the answer. Wrap them.
var (
	ErrBadRequest = errors.New("bad request")
	ErrNotFound   = errors.New("not found")
	ErrConflict   = errors.New("not possible now")
)

// Server answers the methods that have handlers. Handlers are added before
// Serve; any number of calls then run at once.
type Server struct {
	log *slog.Logger
	mux *http.ServeMux
	srv *http.Server
}

// NewServer returns a server without methods.
func NewServer(log *slog.Logger) *Server {
	s := &Server{log: log, mux: http.NewServeMux()}
	s.srv = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: readWithin,
		ReadTimeout:       readWithin,
		WriteTimeout:      writeWithin,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s
}

// Handle answers m by f.
func Handle[In, Out any](s *Server, m Method[In, Out], f func(ctx context.Context, in In) (Out, error)) {
	s.mux.HandleFunc("/"+Version+"/"+m.Name, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && (m.Mutating || r.Method != http.MethodGet) {
			w.Header().Set("Allow", http.MethodPost)
			writeError(w, http.StatusMethodNotAllowed, "use POST")
			return
		}
		var in In
		if r.Method == http.MethodPost {
			dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
			if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
				writeError(w, http.StatusBadRequest, "request is not the JSON object expected: "+err.Error())
				return
			}
		}
		out, err := f(r.Context(), in)
		if err != nil {
			s.fail(w, m.Name, err)
			return
		}
		metrics.AdminRequests.With("ok").Inc()
		if m.Mutating {
			s.log.Info("admin call", "method", m.Name, "request", fmt.Sprintf("%+v", in), "by", caller(r))
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			s.log.Debug("admin answer not written", "method", m.Name, "err", err)
		}
	})
}

// HandleHTTP serves other paths, such as /metrics, with the same authorisation.
func (s *Server) HandleHTTP(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

func (s *Server) fail(w http.ResponseWriter, method string, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrBadRequest):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrConflict):
		status = http.StatusConflict
	default:
		s.log.Error("admin call failed", "method", method, "err", err)
	}
	metrics.AdminRequests.With("failed").Inc()
	writeError(w, status, err.Error())
}

type errorBody struct {
	Error string `json:"error"`
}

func writeError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(errorBody{text}) // the peer is gone: nothing to do
}

// serve lets admins in: over TLS by role, over the socket by its file mode.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		if id, err := tlsconf.Peer(r.TLS); err != nil || !id.Has(tlsconf.Admin) {
			metrics.AdminRefusals.Inc()
			writeError(w, http.StatusForbidden, "role admin is needed")
			return
		}
	} else if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !ok || a.Network() != "unix" {
		metrics.AdminRefusals.Inc()
		writeError(w, http.StatusForbidden, "only over TLS or the unix socket")
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		writeError(w, http.StatusNotImplemented, "this node has no method "+r.URL.Path)
		return
	}
	s.mux.ServeHTTP(w, r)
}

func caller(r *http.Request) string {
	if id, err := tlsconf.Peer(r.TLS); err == nil {
		return id.Node
	}
	return "socket"
}

// ListenUnix listens on a socket that only the owner of the process may open.
// A socket left by an earlier process is replaced.
func ListenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// ListenTLS listens on addr for callers of role admin.
func ListenTLS(addr string, store *tlsconf.Store) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin port: %w", err)
	}
	return tls.NewListener(l, store.Server(tlsconf.Admin)), nil
}

// Serve answers on the listeners until ctx ends, then finishes the calls in
// progress for up to two seconds.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	errs := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { errs <- s.srv.Serve(l) }()
	}
	var err error
	left := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-errs:
		left--
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if s.srv.Shutdown(grace) != nil {
		s.srv.Close()
	}
	for range left {
		<-errs
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}
