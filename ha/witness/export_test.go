package witness

import "github.com/postern-mail/postern/ha/replica/voter"

// Timings are those that w goes by.
func (w *Witness) Timings() voter.Timings { return w.cfg.Timings }
