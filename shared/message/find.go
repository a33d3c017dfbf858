package message

// Find returns the part with an IMAP section number (RFC 9051 6.4.5.1), nil if
// there is none. p is the root; the empty path is p itself.
//
// A message has the parts of its multipart, or if it is none, the part 1,
// which is its body. The parts of a message inside the message follow the
// number of the part that contains it: part 4.1 is the first one of the message
// that is part 4. For such a part 1, and for the path of a message that is no
// multipart, Find returns the Part of the message, whose Body it is.
func (p *Part) Find(path []int) *Part {
	message := p // whose parts the next number counts, nil if none
	for _, n := range path {
		switch {
		case message == nil:
			return nil
		case message.Type == "MULTIPART":
			if n < 1 || n > len(message.Children) {
				return nil
			}
			p = message.Children[n-1]
		case n == 1:
			p = message
		default:
			return nil
		}
		switch {
		case p.Message != nil:
			message = p.Message
		case p.Type == "MULTIPART":
			message = p
		default:
			message = nil
		}
	}
	return p
}
