/*
Package tracing sends the life of messages to an OpenTelemetry collector, by OTLP
over HTTP: a trace for each message, with a span for each event of the mail log on
whatever node it happened.

It keeps true that all nodes give the spans of one message the same trace id, and
the same parent, without telling each other more than the trace id that LMTP carries
anyway: both are computed from it. It promises that nothing waits for a collector:
spans wait in memory, a bounded number of them, and what finds no room is dropped.
Addresses and contents of messages never leave; ids, sizes, codes and channels do.

	message accepted      ---------|                 relay, arrival to 250
	  delivered           --------------|            relay, arrival to the answer
	    stored                    ---|               backend, from the first octet to commit

The times of a span are the event and its delay, so that "delivered" begins when the
message arrived, and what it waited for is seen beside it.

It leaves to maillog what an event is, and to the collector what is kept.
*/
package tracing

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/postern-mail/postern/shared/maillog"
)

const (
	waiting = 4096            // spans in memory; further ones are dropped
	batch   = 512             // spans of one request
	every   = 2 * time.Second // longest wait of a span
	leave   = 5 * time.Second // time to send the rest at the end
)

// Config says where spans go and who sends them.
type Config struct {
	Endpoint string // URL of the collector, http or https; "": there is none
	Sample   int    // part of the messages that is traced, in percent
	Service  string // postern-relay or postern-backend
	Node     string
	Version  string
	Log      *slog.Logger
}

// Exporter sends spans. A nil Exporter drops them.
type Exporter struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sample   uint64
}

// Endpoint reads the URL of a collector.
func Endpoint(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("tracing.endpoint %q: want http://host:port or https://host:port", s)
	}
	return u, nil
}

// Open returns an exporter, or nil when there is no collector. The collector need
// not be there.
func Open(cfg Config) (*Exporter, error) {
	if cfg.Endpoint == "" {
		return nil, nil
	}
	u, err := Endpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces" // OTLP/HTTP, "Endpoint URLs"
	}
	out, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		cfg.Log.Warn("spans not sent", "endpoint", cfg.Endpoint, "err", err)
	}))
	return newExporter(cfg, sdk.NewBatchSpanProcessor(out, sdk.WithMaxQueueSize(waiting), sdk.WithMaxExportBatchSize(batch), sdk.WithBatchTimeout(every))), nil
}

func newExporter(cfg Config, p sdk.SpanProcessor) *Exporter {
	x := &Exporter{sample: uint64(max(cfg.Sample, 0))}
	x.provider = sdk.NewTracerProvider(sdk.WithSpanProcessor(p), sdk.WithIDGenerator(ids{}), sdk.WithSampler(sdk.AlwaysSample()),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", cfg.Service), attribute.String("service.instance.id", cfg.Node), attribute.String("service.version", cfg.Version),
		)))
	x.tracer = x.provider.Tracer("github.com/postern-mail/postern/shared/tracing")
	return x
}

// Close sends what waits, for a few seconds at most.
func (x *Exporter) Close() error {
	if x == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leave)
	defer cancel()
	return x.provider.Shutdown(ctx)
}

// message is what the nodes agree on about one message.
type message struct {
	trace trace.TraceID
	root  trace.SpanID // of the event that accepted it
	lot   uint64       // 0 to 99, by which it is traced or not
}

// of computes it from the trace id that the mail log knows.
func of(id string) message {
	sum := sha256.Sum256([]byte("postern trace " + id))
	var m message
	copy(m.trace[:], sum[:16])
	copy(m.root[:], sum[16:24])
	m.lot = binary.BigEndian.Uint64(sum[24:]) % 100
	return m
}

// Observe makes a span of an event. It neither keeps nor changes it.
func (x *Exporter) Observe(e *maillog.Event) {
	if x == nil || e.TraceID == "" {
		return
	}
	m := of(e.TraceID)
	if m.lot >= x.sample {
		return
	}
	ctx := context.Background()
	if e.Kind == maillog.KindAccepted {
		ctx = context.WithValue(ctx, rootKey{}, m)
	} else {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: m.trace, SpanID: m.root, TraceFlags: trace.FlagsSampled, Remote: true,
		}))
	}
	_, span := x.tracer.Start(ctx, string(e.Kind), trace.WithTimestamp(e.Time.Add(-e.Delay)), trace.WithSpanKind(kind(e.Kind)), trace.WithAttributes(attributes(e)...))
	if e.Code >= 400 || e.Kind == maillog.KindBounced || e.Kind == maillog.KindDeferred {
		span.SetStatus(codes.Error, fmt.Sprint(e.Code, " ", e.Status))
	}
	span.End(trace.WithTimestamp(e.Time))
}

// kind is the side that a node has in an event.
func kind(k maillog.Kind) trace.SpanKind {
	switch k {
	case maillog.KindAccepted, maillog.KindStored:
		return trace.SpanKindServer
	case maillog.KindDelivered, maillog.KindRelayed, maillog.KindDeferred, maillog.KindBounced:
		return trace.SpanKindClient
	}
	return trace.SpanKindInternal
}

// attributes are what of an event concerns nobody in person.
func attributes(e *maillog.Event) []attribute.KeyValue {
	list := make([]attribute.KeyValue, 0, 8)
	text := func(key, value string) {
		if value != "" {
			list = append(list, attribute.String(key, value))
		}
	}
	number := func(key string, value int64) {
		if value != 0 {
			list = append(list, attribute.Int64(key, value))
		}
	}
	text("mail.trace_id", e.TraceID)
	text("mail.queue_id", e.QueueID)
	text("mail.channel", string(e.Channel))
	text("mail.next_hop", e.Relay)
	number("mail.reply_code", int64(e.Code))
	number("mail.size", e.Size)
	number("mail.recipients", int64(e.Recipients))
	return list
}

type rootKey struct{}

// ids gives the root of a message the ids that every node computes, and every other
// span one by chance.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	m, _ := ctx.Value(rootKey{}).(message)
	return m.trace, m.root
}

func (ids) NewSpanID(context.Context, trace.TraceID) trace.SpanID {
	var id trace.SpanID
	binary.BigEndian.PutUint64(id[:], rand.Uint64()|1) // zero is none
	return id
}
