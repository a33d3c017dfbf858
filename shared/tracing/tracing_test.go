package tracing

import (
	"bytes"
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s, false)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// life is what two nodes log of one message.
func life(t *testing.T) (relay, backend []maillog.Event) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	ana := address(t, "ana@example.com")
	relay = []maillog.Event{
		{Time: at, Kind: maillog.KindAccepted, TraceID: "t1", QueueID: "q1", Delay: 30 * time.Millisecond, Size: 700, Recipients: 1, Client: "192.0.2.9", User: "ana", MessageID: "<m@x>", ReversePath: ana},
		{Time: at.Add(time.Millisecond), Kind: maillog.KindDelivered, TraceID: "t1", QueueID: "q1", Recipient: ana, Delay: 31 * time.Millisecond, Code: 250, Channel: mail.ChannelLMTP, Relay: "pair1-a", Reply: "ana@example.com took it"},
		{Time: at, Kind: maillog.KindRejected, Code: 550}, // before any message
	}
	backend = []maillog.Event{
		{Time: at, Kind: maillog.KindStored, TraceID: "t1", Recipient: ana, Delay: 4 * time.Millisecond, Code: 250},
		{Time: at, Kind: maillog.KindBounced, TraceID: "t2", Recipient: ana, Code: 552},
	}
	return relay, backend
}

// TestSpans: two nodes that tell each other nothing make one trace, whose parent is
// the event that accepted the message, and no person is in it.
func TestSpans(t *testing.T) {
	var all tracetest.SpanStubs
	relay, backend := life(t)
	for service, events := range map[string][]maillog.Event{"postern-relay": relay, "postern-backend": backend} {
		out := tracetest.NewInMemoryExporter()
		x := newExporter(Config{Service: service, Node: "n", Sample: 100}, sdk.NewSimpleSpanProcessor(out))
		for i := range events {
			x.Observe(&events[i])
		}
		all = append(all, out.GetSpans()...)
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
	}
	byName := map[string]tracetest.SpanStub{}
	for _, s := range all {
		byName[s.Name] = s
		for _, a := range s.Attributes {
			if v := a.Value.String(); strings.Contains(v, "ana") || strings.Contains(v, "192.0.2.9") || strings.Contains(v, "<m@x>") {
				t.Errorf("%s tells of a person: %s=%s", s.Name, a.Key, v)
			}
		}
	}
	if len(all) != 4 {
		t.Fatalf("%d spans, want 4: %v", len(all), byName)
	}
	root := byName["accepted"]
	if root.Parent.IsValid() || root.EndTime.Sub(root.StartTime) != 30*time.Millisecond {
		t.Errorf("accepted: parent %v, %v", root.Parent, root.EndTime.Sub(root.StartTime))
	}
	for _, name := range []string{"delivered", "stored"} {
		s := byName[name]
		if s.SpanContext.TraceID() != root.SpanContext.TraceID() || s.Parent.SpanID() != root.SpanContext.SpanID() || s.SpanContext.SpanID() == root.SpanContext.SpanID() {
			t.Errorf("%s is no child of %v: %v of %v", name, root.SpanContext, s.SpanContext, s.Parent)
		}
	}
	if b := byName["bounced"]; b.SpanContext.TraceID() == root.SpanContext.TraceID() || b.Status.Description == "" {
		t.Errorf("bounced: %v %v", b.SpanContext, b.Status)
	}
}

// TestSample: a part of the messages is traced, the same on every node.
func TestSample(t *testing.T) {
	traced := func() (ids []string) {
		out := tracetest.NewInMemoryExporter()
		x := newExporter(Config{Sample: 25}, sdk.NewSimpleSpanProcessor(out))
		for i := range 2000 {
			x.Observe(&maillog.Event{Kind: maillog.KindStored, TraceID: "t" + string(rune('a'+i%26)) + time.Duration(i).String()})
		}
		for _, s := range out.GetSpans() {
			ids = append(ids, s.SpanContext.TraceID().String())
		}
		if err := x.Close(); err != nil {
			t.Fatal(err)
		}
		return ids
	}
	a, b := traced(), traced()
	if len(a) < 400 || len(a) > 600 || !slices.Equal(a, b) {
		t.Errorf("%d of 2000 traced, and %d by another node", len(a), len(b))
	}
}

// TestCollector sends spans over HTTP, and to a collector that is not there.
func TestCollector(t *testing.T) {
	var mu sync.Mutex
	var names []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range req.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					names = append(names, s.Name)
				}
			}
		}
	}))
	defer srv.Close()
	relay, _ := life(t)
	for _, endpoint := range []string{srv.URL, "http://127.0.0.1:1"} {
		var said bytes.Buffer
		x, err := Open(Config{Endpoint: endpoint, Sample: 100, Service: "postern-relay", Node: "relay1", Log: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		for i := range relay {
			x.Observe(&relay[i])
		}
		if err := x.Close(); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
		if (said.Len() > 0) != (endpoint != srv.URL) {
			t.Errorf("%s: the log says %q", endpoint, said.String())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(names, []string{"accepted", "delivered"}) {
		t.Errorf("the collector got %v", names)
	}
}

func TestOff(t *testing.T) {
	x, err := Open(Config{})
	if x != nil || err != nil {
		t.Fatal(x, err)
	}
	x.Observe(&maillog.Event{TraceID: "t"})
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"://", "collector:4318", "ftp://collector", "http://"} {
		if _, err := Open(Config{Endpoint: bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
