package replica_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica/replicatest"
)

// What the tests of this package say most.
type (
	cluster = replicatest.Cluster
	node    = replicatest.Node
	options = replicatest.Options
)

const slow = replicatest.Slow

var (
	must       = replicatest.Must
	item       = replicatest.Item
	newCluster = replicatest.New
)

func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		runProcess()
		return
	}
	goleak.VerifyTestMain(m)
}
