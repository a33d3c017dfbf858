package message

// Limits beyond which a message is described more coarsely, never refused.
const (
	MaxDepth  = 100       // nesting of parts; deeper ones are opaque
	MaxParts  = 1000      // parts of a message; later ones belong to the one before
	MaxHeader = 256 << 10 // octets of one header block; the rest is body
	MaxParams = 64        // parameters of one field

	// MaxAddresses bounds the mailboxes of all envelopes of a message; later
	// ones are left out of the envelope.
	MaxAddresses = 16384
)

// Span is a run of octets of the message, by offset.
type Span struct {
	Off, Len int64
}

// End is the offset behind the span.
func (s Span) End() int64 { return s.Off + s.Len }

// Param is one parameter of Content-Type or Content-Disposition, the value
// decoded per RFC 2231 to the octets it stands for, the charset apart.
//
// Extended is the value as RFC 2231 writes it, charset'language'octets with its
// continuations joined, and "" when the value is not written so. IMAP shows
// that form, under the name with an asterisk (RFC 2231 6), because the charset
// would be lost otherwise.
type Param struct {
	Name, Value string
	Extended    string
}

// Part is one MIME entity, described by the offsets of its octets in the
// message. The root part is the message itself.
type Part struct {
	Header Span // the header block with the empty line that ends it
	Body   Span // the octets between the header and the delimiter that follows
	Lines  int64

	Type, Subtype string  // upper case, "TEXT"/"PLAIN" when absent or unreadable
	Params        []Param // of Content-Type
	ID            string
	Description   string
	Encoding      string // upper case, "7BIT" when absent
	MD5           string
	Disposition   string // "" when absent
	DispParams    []Param
	Language      []string
	Location      string

	Children []*Part   // of a multipart; never empty for one
	Message  *Part     // of message/rfc822 or message/global: the message inside
	Envelope *Envelope // of the root and of each Message part
}

// Address is one mailbox or group marker of an ENVELOPE (RFC 9051 7.5.2), as
// octets of the message: encoded words stay encoded. A nil field is NIL.
type Address struct {
	Name, Route, Mailbox, Host *string
}

// Envelope holds the fields of an IMAP ENVELOPE as octets of the message,
// unfolded. A nil field is NIL. Runs of white space in Subject and in the names
// of addresses are one space; NUL is U+FFFD everywhere. Address fields that
// occur several times are joined; of other fields the last one counts.
type Envelope struct {
	Date, Subject                      *string
	From, Sender, ReplyTo, To, Cc, Bcc []Address
	InReplyTo, MessageID               *string
}

// Field is one header field: its raw octets with the CRLF that ends it, its
// name as written, and its value with folding kept.
type Field struct {
	Raw  []byte
	Name []byte
	Body []byte // after the colon, with the final CRLF
}
