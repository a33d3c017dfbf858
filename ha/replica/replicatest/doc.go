/*
Package replicatest runs pairs with their witness in the process of a test:
certificates of a CA of their own, a state machine that keeps what it is given
in order, and a network whose links can be cut without a sign.

	c := replicatest.New(t, replicatest.Options{Keep: true})
	n := c.Serving()
	err := n.Propose("text", 100)
	c.Kill(n.Name)

Times are stretched by Slow, so that a busy machine is not taken for a dead
one. Everything ends with the test. Only tests import it.
*/
package replicatest
