/*
Package metrics names every figure the daemons export, once, and serves them
with the health of the node.

names.go is the list. A figure belongs to a tier and is exported by the daemons
of that tier only; the variables may be counted in any process. Addresses,
message ids and other unbounded values are never labels.

Handler serves /metrics in the Prometheus text format; /healthz, which answers
200 as long as the process can answer; and /readyz, which answers 200 when every
check passes and 503 with the failing ones otherwise, also while draining.
*/
package metrics
