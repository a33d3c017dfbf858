package metrics

import (
	"strings"
	"testing"
)

func TestSnake(t *testing.T) {
	for _, tt := range []struct{ key, counter, other string }{
		{"raft rpc appendEntries storeLogs", "raft_rpc_append_entries_store_logs_total", "raft_rpc_append_entries_store_logs"},
		{"raft candidate preElectSelf", "raft_candidate_pre_elect_self_total", "raft_candidate_pre_elect_self"},
		{"memberlist tcp accept", "memberlist_tcp_accept_total", "memberlist_tcp_accept"},
		{"raft fsm applyBatchNum", "raft_fsm_apply_batch_num_total", "raft_fsm_apply_batch_num"},
		{"raft RPC", "raft_rpc_total", "raft_rpc"},
	} {
		key := strings.Fields(tt.key)
		if got := strings.Join(total(key), "_"); got != tt.counter {
			t.Errorf("counter %s: %s, want %s", tt.key, got, tt.counter)
		}
		if got := strings.Join(snake(key), "_"); got != tt.other {
			t.Errorf("%s: %s, want %s", tt.key, got, tt.other)
		}
		if strings.Join(key, " ") != tt.key {
			t.Errorf("%s was changed in place", tt.key)
		}
	}
}
