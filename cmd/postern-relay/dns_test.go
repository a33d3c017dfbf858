package main

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/ha/gossip"
)

func TestRelaysOf(t *testing.T) {
	got := relaysOf([]gossip.Member{
		{Name: "pair1-a", Role: "backend", State: gossip.Alive, Services: map[string]string{"smtp": "192.0.2.9:25"}},
		{Name: "r1", Role: "relay", State: gossip.Alive, Services: map[string]string{"smtp": "10.0.0.1:25", "public/0": "192.0.2.1:25", "public/1": "[2001:db8::1]:25", "public/4": "192.0.2.7:25"}},
		{Name: "r2", Role: "relay", State: gossip.Draining, Services: map[string]string{"smtp": "192.0.2.2:2525"}},
		{Name: "r5", Role: "relay", State: gossip.Alive, Unready: true, Services: map[string]string{"smtp": "192.0.2.5:25"}},
		{Name: "r3", Role: "relay", State: gossip.Dead, Services: map[string]string{"smtp": "mail.example.com:25"}},
		{Name: "r4", Role: "relay", State: gossip.Left, Services: map[string]string{"smtp": "192.0.2.4:25"}},
	})
	if want := "[{r1 [192.0.2.1 2001:db8::1] true} {r2 [192.0.2.2] false} {r5 [192.0.2.5] false} {r3 [] false}]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
