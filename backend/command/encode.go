package command

import "encoding/binary"

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }
func appendInt(b []byte, v int64) []byte   { return binary.AppendVarint(b, v) }

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendStrings(b []byte, list []string) []byte {
	b = appendUint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendMessage(b []byte, m *Message) []byte {
	b = appendUint(b, m.ID)
	b = appendUint(b, uint64(m.Size))
	b = append(b, m.Hash[:]...)
	b = appendString(b, m.Meta)
	b = appendUint(b, uint64(len(m.Body)))
	for _, e := range m.Body {
		b = appendUint(b, e.Index)
		b = appendUint(b, uint64(e.Off))
		b = appendUint(b, uint64(e.Len))
	}
	return b
}

func appendLimit(b []byte, l *Limit) []byte {
	b = appendInt(b, l.Bytes)
	b = appendInt(b, l.Messages)
	return appendString(b, l.Stamp)
}

// Bits of a recipient's first octet.
const (
	rcptCreate = 1 << iota
	rcptForce
	rcptKey
	rcptLimit
	rcptFlags
	rcptAutoreply // since version 2
	rcptOnly
	rcptClaim // since version 3: a claim, or that one will follow
)

func (a *Autoreply) claims() bool { return a.Later || a.By != (Key{}) }

// posts reports whether c says more of who may post than version 3 can.
func (c *Deliver) posts() bool {
	if c.Owners {
		return true
	}
	for i := range c.Recipients {
		if c.Recipients[i].Folder != "" && len(c.Recipients[i].Poster) > 0 {
			return true
		}
	}
	return false
}

func appendRecipient(b []byte, rc *Recipient, compact, posts bool, names domains) []byte {
	var bits byte
	if rc.Create {
		bits |= rcptCreate
	}
	if rc.Force {
		bits |= rcptForce
	}
	if rc.Key != (Key{}) {
		bits |= rcptKey
	}
	if rc.Limit != nil {
		bits |= rcptLimit
	}
	if rc.Flags != 0 || len(rc.Keywords) > 0 {
		bits |= rcptFlags
	}
	if a := rc.Autoreply; a != nil {
		bits |= rcptAutoreply
		if a.Only {
			bits |= rcptOnly
		}
		if compact && a.claims() {
			bits |= rcptClaim
		}
	}
	b = append(b, bits)
	if compact {
		b = names.append(b, rc.Account)
	} else {
		b = appendString(b, rc.Account)
	}
	b = appendString(b, rc.Folder)
	if posts && rc.Folder != "" {
		b = appendStrings(b, rc.Poster)
	}
	if bits&rcptKey != 0 {
		b = append(b, rc.Key[:]...)
	}
	if bits&rcptLimit != 0 {
		b = appendLimit(b, rc.Limit)
	}
	if bits&rcptFlags != 0 {
		b = appendUint(b, rc.Flags)
		b = appendStrings(b, rc.Keywords)
	}
	if a := rc.Autoreply; a != nil {
		b = append(b, a.Hash[:]...)
		b = appendUint(b, uint64(a.Seconds))
		if bits&rcptClaim != 0 {
			b = append(b, a.By[:]...)
		}
	}
	return b
}

func (*Part) appendFields(b []byte) []byte { return b }

func (c *Deliver) appendFields(b []byte) []byte {
	b = appendUint(b, uint64(c.Seed))
	b = appendInt(b, c.KeyLife)
	b = appendInt(b, c.InternalDate)
	b = appendMessage(b, &c.Message)
	var names domains
	posts := c.Compact && c.posts()
	if c.Compact {
		names = domainsOf(c.Recipients)
		b = appendStrings(b, names)
	}
	if posts {
		b = appendBool(b, c.Owners)
	}
	b = appendUint(b, uint64(len(c.Recipients)))
	for i := range c.Recipients {
		b = appendRecipient(b, &c.Recipients[i], c.Compact, posts, names)
	}
	return b
}

func (c *Format) appendFields(b []byte) []byte { return appendUint(b, uint64(c.Level)) }

func (c *Remove) appendFields(b []byte) []byte {
	return appendUint(appendUint(b, c.Account), uint64(c.Limit))
}

func (c *AppendMessages) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.Name)
	b = appendUint(b, uint64(len(c.Messages)))
	for i := range c.Messages {
		m := &c.Messages[i]
		b = appendMessage(b, &m.Message)
		b = appendInt(b, m.InternalDate)
		b = appendUint(b, m.Flags)
		b = appendStrings(b, m.Keywords)
	}
	return b
}

func (c *Account) appendFields(b []byte) []byte {
	return appendUint(appendString(b, c.Name), uint64(c.Seed))
}

func (c *Create) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.Name)
	return appendUint(b, uint64(c.SpecialUse))
}

func (c *Delete) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.Name)
	return appendUint(b, uint64(c.Limit))
}

func (c *Rename) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.From)
	return appendString(b, c.To)
}

func (c *Subscribe) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendString(b, c.Name)
	return appendBool(b, c.On)
}

func (c *Store) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendUint(b, c.Mailbox)
	b = c.UIDs.append(b)
	b = append(b, byte(c.Action))
	b = appendUint(b, c.Flags)
	b = appendStrings(b, c.Keywords)
	b = appendBool(b, c.Conditional)
	return appendUint(b, c.Unchanged)
}

func (c *Expunge) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendUint(b, c.Mailbox)
	b = c.UIDs.append(b)
	return appendBool(b, c.Force)
}

func (c *Copy) appendFields(b []byte) []byte {
	b = appendUint(b, c.Account)
	b = appendUint(b, c.Mailbox)
	b = c.UIDs.append(b)
	b = appendString(b, c.To)
	return appendBool(b, c.Move)
}

func (c *Quota) appendFields(b []byte) []byte {
	b = appendString(b, c.Account)
	b = appendUint(b, uint64(c.Seed))
	return appendLimit(b, &c.Limit)
}

func (c *Digest) appendFields(b []byte) []byte {
	if versionOf(c) == versionOldest {
		return b
	}
	return append(appendUint(b, c.MarkIndex), c.Mark[:]...)
}
