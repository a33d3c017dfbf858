package observe

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/postern-mail/postern/integration/cluster"
)

// span is what a collector got, with the service that sent it.
type span struct{ service, name, trace, id, parent string }

// collect serves a collector and returns its URL and a channel of spans.
func collect(t *testing.T) (string, <-chan span) {
	spans := make(chan span, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var req collector.ExportTraceServiceRequest
		body, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		b, err := io.ReadAll(body)
		if err == nil {
			err = proto.Unmarshal(b, &req)
		}
		if err != nil {
			t.Error(err)
		}
		for _, rs := range req.ResourceSpans {
			service := ""
			for _, a := range rs.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					spans <- span{service, s.Name, string(s.TraceId), string(s.SpanId), string(s.ParentSpanId)}
				}
			}
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, spans
}

// send hands one message to a relay.
func send(t *testing.T, relay, rcpt string) {
	t.Helper()
	c, err := smtp.Dial(relay)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Mail("x@elsewhere.test"); err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt(rcpt); err != nil {
		t.Fatal(err)
	}
	w, err := c.Data()
	if err == nil {
		_, err = w.Write(cluster.Message("traced", rcpt, 500))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTrace: one message makes one trace over both tiers.
func TestTrace(t *testing.T) {
	url, spans := collect(t)
	t.Setenv("POSTERN_TRACING_ENDPOINT", url)
	c := cluster.Start(t)
	c.AwaitServing("pair1", 30*time.Second)
	info := c.Info()
	rcpt := info.Users[0].Address
	send(t, info.Relays[0].SMTP, rcpt)
	want := map[string]string{"accepted": "postern-relay", "delivered": "postern-relay", "stored": "postern-backend"}
	var root span
	var children []span
	for limit := time.After(30 * time.Second); len(want) > 0; {
		select {
		case s := <-spans:
			if want[s.name] != s.service {
				t.Fatalf("%s comes from %s, want it from %q", s.name, s.service, want[s.name])
			}
			delete(want, s.name)
			if s.name == "accepted" {
				root = s
			} else {
				children = append(children, s)
			}
		case <-limit:
			t.Fatalf("not seen: %v", want)
		}
	}
	for _, s := range children {
		if s.trace != root.trace || s.parent != root.id {
			t.Errorf("%s of %s is no child of what the relay accepted", s.name, s.service)
		}
	}
}
