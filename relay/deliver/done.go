//go:build !planted_unknown

package deliver

// Done reports whether nothing is left to try.
func (o Outcome) Done() bool { return o == Delivered || o == Relayed || o == Passed }
