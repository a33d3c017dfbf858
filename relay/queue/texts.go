package queue

import (
	"strconv"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// The keys of what is said to people: answers while they are away, and the first
// message of a mailbox.

// welcomes writes each text for new mailboxes once, and returns their numbers.
func (e *encoder) welcomes(rcpts []Recipient) map[string]int {
	var texts map[string]int
	for i := range rcpts {
		text := rcpts[i].Welcome
		if text == "" || texts[text] > 0 {
			continue
		}
		if texts == nil {
			texts = map[string]int{}
		}
		texts[text] = len(texts) + 1
		e.text("welcome", text)
	}
	return texts
}

func (e *encoder) autoreply(a *mail.Autoreply) {
	if a == nil {
		return
	}
	e.b = append(e.b, "+reply "...)
	e.b = strconv.AppendQuoteToASCII(e.b, string(a.Mode))
	e.b = append(e.b, '\n')
	e.flag("+replyonly", a.Only)
	e.text("+replyfrom", a.From.String())
	for _, me := range a.Me {
		e.text("+replyme", me.String())
	}
	e.text("+replysubject", a.Subject)
	e.text("+replytext", a.Text)
	e.num("+replytimeout", int64(a.Timeout))
}

// autoreply reads a line that belongs to +reply.
func (l *line) autoreply(a *mail.Autoreply) {
	if a == nil {
		l.fail("before +reply")
		return
	}
	switch l.key {
	case "+replyonly":
		a.Only = l.flag()
	case "+replyfrom":
		a.From = l.address()
	case "+replyme":
		if len(a.Me) >= maxNames {
			l.fail("occurs too often")
			return
		}
		a.Me = append(a.Me, l.address())
	case "+replysubject":
		a.Subject = l.text()
	case "+replytext":
		a.Text = l.text()
	case "+replytimeout":
		a.Timeout = time.Duration(l.num())
	}
}
