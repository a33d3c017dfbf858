package imapd

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// Selection and return options of LIST (RFC 9051 6.3.9), as bits.
const (
	listSubscribed = 1 << iota
	listRemote
	listRecursive
	listSpecialUse
	listChildren
	listStatus
)

// listCommand is the arguments of LIST.
type listCommand struct {
	selection, returns int
	status             int // items
	patterns           []string
}

func (s *session) list() error {
	p := &s.p
	var c listCommand
	p.SP()
	extended := p.Peek() == '('
	if extended {
		p.List(func() { c.selection |= readListOption(p, true, nil) })
		p.SP()
	}
	ref := p.AString()
	p.SP()
	var raw [][]byte
	if p.Peek() == '(' {
		extended = true
		p.List(func() {
			if raw = append(raw, p.ListMailbox()); len(raw) > maxPatterns {
				p.Fail("too many patterns")
			}
		})
	} else {
		raw = append(raw, p.ListMailbox())
	}
	if p.Has(' ') {
		extended = true
		if !p.HasWord("RETURN") {
			p.Fail("RETURN expected")
		}
		p.SP()
		p.List(func() { c.returns |= readListOption(p, false, &c.status) })
	}
	if err := p.End(); err != nil {
		return err
	}
	if c.selection&listRecursive != 0 && c.selection&(listSubscribed|listSpecialUse) == 0 {
		return bad("RECURSIVEMATCH wants another option")
	}
	if !extended && len(raw[0]) == 0 { // RFC 9051 6.3.9: the separator is asked for
		s.w.WriteString("* LIST (\\Noselect) \"/\" \"\"\r\n")
		return nil
	}
	s.addPatterns(&c, ref, raw)
	infos, err := s.account.List(s.ctx)
	if err != nil {
		return err
	}
	return s.writeList(&c, infos)
}

// maxPatterns bounds the patterns of one LIST.
const maxPatterns = 20

// addPatterns decodes the patterns, each behind the reference. What is no name
// matches nothing.
func (s *session) addPatterns(c *listCommand, ref []byte, raw [][]byte) {
	prefix, ok := s.decodeName(ref)
	if !ok {
		return
	}
	for _, b := range raw {
		if pattern, ok := s.decodeName(b); ok {
			c.patterns = append(c.patterns, prefix+pattern)
		}
	}
}

// readListOption takes a selection or return option.
func readListOption(p *imapwire.Parser, selection bool, status *int) int {
	switch word := upperWord(p); {
	case word == "SUBSCRIBED":
		return listSubscribed
	case word == "SPECIAL-USE":
		return listSpecialUse
	case word == "REMOTE" && selection:
		return listRemote
	case word == "RECURSIVEMATCH" && selection:
		return listRecursive
	case word == "CHILDREN" && !selection:
		return listChildren
	case word == "STATUS" && !selection:
		p.SP()
		*status = readStatusItems(p)
		return listStatus
	}
	p.Fail("unknown option of LIST")
	return 0
}

// writeList answers LIST. What does not exist is shown as a level of a name
// that does, or as a subscription when those are asked for.
func (s *session) writeList(c *listCommand, infos []mailbox.Info) error {
	if c.returns&listStatus != 0 && c.status&statusHighestModSeq != 0 {
		s.needModSeq()
	}
	var above map[string]bool
	if c.selection&listRecursive != 0 {
		infos = withParents(infos)
		above = parents(infos, c.selects)
	}
	for i := range infos {
		info := &infos[i]
		if !c.matches(info.Name) {
			continue
		}
		child := above[info.Name]
		if !child && !c.selects(info) {
			continue
		}
		s.writeListed(c, info, child)
		if c.returns&listStatus != 0 && !info.NonExistent {
			if err := s.writeStatus(info, c.status); err != nil && !errors.Is(err, mailbox.ErrNoMailbox) { // gone meanwhile
				return err
			}
		}
		if err := s.spill(); err != nil {
			return err
		}
	}
	return nil
}

// parents is the names of all levels above the mailboxes that f wants.
func parents(infos []mailbox.Info, f func(*mailbox.Info) bool) map[string]bool {
	above := make(map[string]bool)
	for i := range infos {
		if !f(&infos[i]) {
			continue
		}
		name := infos[i].Name
		for at := strings.LastIndexByte(name, '/'); at > 0; at = strings.LastIndexByte(name[:at], '/') {
			above[name[:at]] = true
		}
	}
	return above
}

// withParents adds the levels above subscriptions that have no mailbox.
func withParents(infos []mailbox.Info) []mailbox.Info {
	above := parents(infos, func(*mailbox.Info) bool { return true })
	for i := range infos {
		delete(above, infos[i].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(above)) {
		infos = append(infos, mailbox.Info{Name: name, NonExistent: true})
	}
	return infos
}

func (c *listCommand) matches(name string) bool {
	return slices.ContainsFunc(c.patterns, func(pattern string) bool { return matchName(name, pattern) })
}

// selects reports whether the selection options want the mailbox.
func (c *listCommand) selects(info *mailbox.Info) bool {
	switch {
	case c.selection&listSubscribed != 0 && !info.Subscribed,
		c.selection&listSpecialUse != 0 && len(info.SpecialUse) == 0:
		return false
	}
	return c.selection&listSubscribed != 0 || !info.NonExistent || info.HasChildren
}

func (s *session) writeListed(c *listCommand, info *mailbox.Info, child bool) {
	b := append(s.w.B, "* LIST ("...)
	open := len(b)
	add := func(attribute string) {
		if len(b) > open {
			b = append(b, ' ')
		}
		b = append(b, attribute...)
	}
	if info.NonExistent {
		add(`\NonExistent`)
		if !s.rev2 {
			add(`\Noselect`)
		}
	}
	if info.HasChildren {
		add(`\HasChildren`)
	} else {
		add(`\HasNoChildren`)
	}
	if info.Subscribed && (c.selection|c.returns)&listSubscribed != 0 {
		add(`\Subscribed`)
	}
	for _, use := range info.SpecialUse {
		add(use)
	}
	s.w.B = append(b, `) "/" `...)
	s.writeName(info.Name)
	if child {
		s.w.WriteString(` ("CHILDINFO" (`)
		for i, option := range c.childInfo() {
			if i > 0 {
				s.w.WriteString(" ")
			}
			s.w.WriteString(`"` + option + `"`)
		}
		s.w.WriteString("))")
	}
	s.w.WriteString("\r\n")
}

// childInfo names the options that some child fits (RFC 5258 3.5).
func (c *listCommand) childInfo() []string {
	var names []string
	if c.selection&listSubscribed != 0 {
		names = append(names, "SUBSCRIBED")
	}
	if c.selection&listSpecialUse != 0 {
		names = append(names, "SPECIAL-USE")
	}
	return names
}

// lsub is LSUB of RFC 3501: the subscribed names, and with "%" the levels
// above them.
func (s *session) lsub() error {
	p := &s.p
	p.SP()
	ref := p.AString()
	p.SP()
	pattern := p.ListMailbox()
	if err := p.End(); err != nil {
		return err
	}
	var c listCommand
	s.addPatterns(&c, ref, [][]byte{pattern})
	infos, err := s.account.List(s.ctx)
	if err != nil {
		return err
	}
	infos = withParents(infos)
	var parent map[string]bool
	if strings.HasSuffix(string(pattern), "%") {
		parent = parents(infos, func(info *mailbox.Info) bool { return info.Subscribed })
	}
	for i := range infos {
		info := &infos[i]
		if !c.matches(info.Name) {
			continue
		}
		above := !info.Subscribed && parent[info.Name]
		if !info.Subscribed && !above {
			continue
		}
		s.w.WriteString("* LSUB (")
		if above || info.NonExistent {
			s.w.WriteString(`\Noselect`)
		}
		s.w.WriteString(`) "/" `)
		s.writeName(info.Name)
		s.w.WriteString("\r\n")
		if err := s.spill(); err != nil {
			return err
		}
	}
	return nil
}
