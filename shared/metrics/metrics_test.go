package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func get(t *testing.T, r *Registry, path string, checks ...Check) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	r.Handler(checks...).ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	body, _ := io.ReadAll(rec.Result().Body)
	return rec.Code, string(body)
}

func TestTiers(t *testing.T) {
	relay := NewRegistry("relay1", "1.0", Every, Relay)
	backend := NewRegistry("pair1-a", "1.0", Every, Backend)
	before := testutil.ToFloat64(MailAccepted)
	MailAccepted.Inc()
	code, text := get(t, relay, "/metrics")
	if code != 200 || !strings.Contains(text, fmt.Sprintf("postern_mail_accepted_total %g\n", before+1)) || !strings.Contains(text, `postern_build_info{node="relay1",version="1.0"} 1`) {
		t.Errorf("relay: %d\n%s", code, text)
	}
	if strings.Contains(text, "postern_lmtp_bytes_total") {
		t.Error("a relay exports figures of a backend")
	}
	if _, text := get(t, backend, "/metrics"); strings.Contains(text, "postern_mail_accepted_total") {
		t.Error("a backend exports figures of a relay")
	}
}

// TestNames registers every tier in one registry, where a name given twice
// panics, and lints names and help texts.
func TestNames(t *testing.T) {
	r := NewRegistry("n", "v", Every, Relay, Backend, Witness)
	problems, err := testutil.GatherAndLint(r.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "postern_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestHealth(t *testing.T) {
	r := NewRegistry("n", "v", Every)
	draining := errors.New("draining")
	var state error
	check := Check{"drain", func(context.Context) error { return state }}
	if code, _ := get(t, r, "/readyz", check); code != 200 {
		t.Errorf("ready: %d", code)
	}
	state = draining
	if code, body := get(t, r, "/readyz", check); code != 503 || !strings.Contains(body, "drain: draining") {
		t.Errorf("draining: %d %q", code, body)
	}
	if code, _ := get(t, r, "/healthz", check); code != 200 {
		t.Errorf("alive: %d", code)
	}
}

func TestHashicorp(t *testing.T) {
	if err := NewRegistry("n", "v", Every).CollectHashicorp(); err != nil {
		t.Fatal(err)
	}
}
