package cli

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// longWork is the number of steps from which progress is worth showing.
const longWork = 50

// bar shows how far some work is. A nil bar shows nothing.
type bar struct {
	progress *mpb.Progress
	bar      *mpb.Bar
}

// progress begins a bar on standard error when that is a terminal and there is
// much to do.
func (a *app) progress(what string, total int) *bar {
	if total < longWork || !isTerminal(a.err) {
		return nil
	}
	p := mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(60))
	b := p.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d "+what+" ")),
		mpb.AppendDecorators(decor.AverageETA(decor.ET_STYLE_GO)))
	return &bar{p, b}
}

func (b *bar) step() {
	if b != nil {
		b.bar.Increment()
	}
}

// end leaves the bar as it is.
func (b *bar) end() {
	if b != nil {
		b.bar.Abort(false)
		b.progress.Wait()
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0
}
