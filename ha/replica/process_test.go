package replica_test

// processEnv makes the test binary run one node; see TestKillProcess.
const processEnv = "POSTERN_TEST_NODE"

func runProcess() {}
