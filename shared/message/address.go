package message

// What stands in an address where the message has nothing readable. Clients
// know these words.
var (
	missingMailbox = "MISSING_MAILBOX"
	missingDomain  = "MISSING_DOMAIN"
	invalidRoute   = "INVALID_ROUTE"
	syntaxError    = "SYNTAX_ERROR"
)

// addressReader turns one address field into the flat list of an ENVELOPE. It
// reads what RFC 5322 4.4 calls obsolete, and goes on after most errors.
type addressReader struct {
	scanner
	p    *parser // where strings and addresses are kept
	word piece   // the element being read

	// The address being read.
	name, route, mailbox, domain *string
	invalid                      bool
}

// addresses reads the fields of one name, whose values are in text. The result
// is nil when there are no addresses.
func (p *parser) addresses(v *values, text string, field int) []Address {
	if !v[field].found {
		return nil
	}
	start := len(p.list)
	p.readAddresses(text[v[field].lo:v[field].hi])
	for _, r := range p.repeated {
		if r.field == field {
			p.readAddresses(text[r.lo:r.hi])
		}
	}
	if len(p.list) == start {
		return nil
	}
	return p.list[start:len(p.list):len(p.list)]
}

// readAddresses adds the addresses of one field value to p.list.
func (p *parser) readAddresses(s string) {
	r := addressReader{scanner: scanner{s: s}, p: p}
	if r.cfws() == more {
		r.readList()
	}
}

// take is the word read last, kept.
func (r *addressReader) take() *string { return r.p.keep(r.word.string(r.s)) }

// add ends an address.
func (r *addressReader) add() {
	if r.p.addressesLeft > 0 {
		r.p.addressesLeft--
		r.p.list = append(r.p.list, Address{Name: r.name, Route: r.route, Mailbox: r.mailbox, Host: r.domain})
	}
	r.name, r.route, r.mailbox, r.domain, r.invalid = nil, nil, nil, nil, false
}

// addMailbox ends an address that is not a group marker: it has a mailbox and
// a domain, whatever was read.
func (r *addressReader) addMailbox() {
	if r.mailbox == nil {
		r.mailbox = &missingMailbox
	}
	if r.domain == nil || *r.domain == "" {
		r.domain = &missingDomain
	}
	if r.name != nil {
		if h := humanize(*r.name); h != *r.name {
			r.name = r.p.keep(h)
		}
	}
	r.add()
}

// readList reads address *("," address) (RFC 5322 3.4).
func (r *addressReader) readList() {
	for r.p.addressesLeft > 0 {
		if r.readAddress() == atEnd || !r.at(',') {
			return
		}
		r.i++
		switch r.cfws() {
		case atEnd:
			return
		case broken:
			r.addMailbox()
			return
		}
	}
}

func (r *addressReader) readAddress() state {
	start := r.i
	if st := r.readGroup(); st != broken {
		return st
	}
	r.i = start
	return r.readMailbox()
}

// readGroup reads a group: a marker with its name, its mailboxes, an empty
// marker (RFC 9051 7.5.2). It returns broken only if this is no group.
func (r *addressReader) readGroup() state {
	r.word.reset()
	if r.phrase(&r.word) != more || r.s[r.i] != ':' {
		return broken
	}
	r.i++
	st := r.cfws()
	r.mailbox = r.take()
	r.add()
	if st == more && r.s[r.i] != ';' {
		st = r.readMembers()
	}
	if st != broken {
		if r.at(';') {
			r.i++
			st = r.cfws()
		} else {
			st = broken
		}
	}
	r.add()
	if st == atEnd {
		return atEnd
	}
	return more
}

func (r *addressReader) readMembers() state {
	for {
		r.readMailbox() // after an unreadable one, go on
		if !r.at(',') {
			return more
		}
		r.i++
		if r.cfws() != more || r.p.addressesLeft == 0 {
			return broken
		}
	}
}

// readMailbox reads a name-addr or, failing that, an addr-spec.
func (r *addressReader) readMailbox() state {
	start := r.i
	st := r.readNameAddr()
	if st == broken {
		r.i = start
		st = r.readAddrSpec()
		if r.invalid && r.name == nil && r.mailbox != nil && r.domain == nil {
			r.name, r.mailbox = r.mailbox, nil // a quoted name and nothing else
		}
	}
	r.addMailbox()
	return st
}

func (r *addressReader) readNameAddr() state {
	r.word.reset()
	if r.phrase(&r.word) != more || r.s[r.i] != '<' {
		return broken
	}
	if r.word.len() > 0 {
		r.name = r.take()
	}
	if r.readAngle() == broken {
		r.domain = &syntaxError
	}
	return r.state()
}

// readAngle reads "<" [route ":"] local-part ["@" domain] ">".
func (r *addressReader) readAngle() state {
	r.i++
	if r.cfws() != more {
		return broken
	}
	if r.s[r.i] == '@' {
		if r.readRoute() == more && r.at(':') {
			r.i++
		} else {
			r.route = &invalidRoute
			if r.i >= len(r.s) {
				return broken
			}
		}
		if r.cfws() != more {
			return broken
		}
	}
	if r.s[r.i] != '>' {
		if r.readLocal() != more {
			return broken
		}
		if r.s[r.i] == '@' && r.readDomain() != more {
			return broken
		}
	}
	if r.s[r.i] != '>' {
		return broken
	}
	r.i++
	return r.cfws()
}

// readRoute reads an obs-domain-list (RFC 5322 4.4).
func (r *addressReader) readRoute() state {
	r.word.reset()
	for {
		if r.i >= len(r.s) {
			return atEnd
		}
		if r.s[r.i] != '@' {
			r.route = r.take()
			return more
		}
		if r.word.len() > 0 {
			r.word.addByte(r.s, ',')
		}
		r.word.addByte(r.s, '@')
		if st := r.scanner.domain(&r.word); st != more {
			return st
		}
		for r.cfws() == more && r.s[r.i] == ',' {
			r.i++
		}
	}
}

func (r *addressReader) readLocal() state {
	r.word.reset()
	var st state
	if r.s[r.i] == '"' {
		st = r.quoted(&r.word)
	} else {
		st = r.localPart(&r.word)
	}
	if st != broken {
		r.mailbox = r.take()
	}
	return st
}

func (r *addressReader) readDomain() state {
	r.word.reset()
	st := r.scanner.domain(&r.word)
	if st != broken {
		r.domain = r.take()
	}
	return st
}

// readAddrSpec reads local-part "@" domain, the name being in a comment behind
// it. Words without "@" are a name, but a single one is a mailbox.
func (r *addressReader) readAddrSpec() state {
	r.keepComment = true
	r.comment.reset()
	defer func() { r.keepComment = false }()

	isQuoted := r.s[r.i] == '"'
	st := r.readLocal()
	r.invalid = st != more
	hasDomain := false
	if st != atEnd && r.at('@') {
		hasDomain = true
		if dst := r.readDomain(); dst != more {
			st = dst
		}
	}
	if r.comment.len() > 0 {
		r.name = r.p.keep(r.comment.string(r.s))
		return st
	}
	if hasDomain {
		return st
	}
	r.word.addByte(r.s, ' ')
	before := r.word.len()
	r.phrase(&r.word)
	if r.word.len() != before {
		r.mailbox, r.name = nil, r.take()
	} else if !isQuoted {
		empty := ""
		r.domain = &empty
	}
	r.invalid = true
	return broken
}
