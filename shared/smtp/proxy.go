package smtp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
)

// The PROXY protocol, versions 1 and 2, as its specification of 2020 has it.
const proxyV1Max = 107

var proxyV2Signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// readProxyHeader reads the header that a trusted peer must begin with. What
// follows it stays in the buffer.
func (c *conn) readProxyHeader() error {
	for {
		n, src, dst, err := parseProxyHeader(c.in.window())
		if err != nil {
			c.cfg.Log.Warn("bad PROXY header", "id", c.info.ID, "peer", c.info.Peer, "err", err)
			return errNoProxy
		}
		if n > 0 {
			c.in.r += n
			if src.IsValid() {
				c.info.Remote, c.info.Local = src, dst
			}
			return nil
		}
		if len(c.in.space()) == 0 {
			return errNoProxy
		}
		if err := c.fill(); err != nil {
			c.cfg.Log.Warn("no PROXY header", "id", c.info.ID, "peer", c.info.Peer, "err", err)
			return errNoProxy
		}
	}
}

// parseProxyHeader reads a header at the start of b. n is its length, 0 when
// more octets are needed. src is not valid when the header keeps the
// connection's own addresses (LOCAL, UNKNOWN).
func parseProxyHeader(b []byte) (n int, src, dst netip.AddrPort, err error) {
	sig := min(len(b), len(proxyV2Signature))
	switch {
	case bytes.Equal(b[:sig], proxyV2Signature[:sig]):
		return parseProxyV2(b)
	case bytes.HasPrefix([]byte("PROXY "), b[:min(len(b), 6)]):
		return parseProxyV1(b)
	}
	return 0, src, dst, fmt.Errorf("no PROXY signature")
}

func parseProxyV1(b []byte) (n int, src, dst netip.AddrPort, err error) {
	end := bytes.Index(b[:min(len(b), proxyV1Max)], crlf)
	if end < 0 {
		if len(b) >= proxyV1Max {
			err = fmt.Errorf("version 1 header too long")
		}
		return 0, src, dst, err
	}
	f := strings.Split(string(b[:end]), " ")
	switch {
	case len(f) >= 2 && f[1] == "UNKNOWN":
		return end + 2, src, dst, nil
	case len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6":
		return 0, src, dst, fmt.Errorf("bad version 1 header")
	}
	src, err1 := parseAddrPort(f[2], f[4])
	dst, err2 := parseAddrPort(f[3], f[5])
	if err1 != nil || err2 != nil || (f[1] == "TCP4") != src.Addr().Is4() || src.Addr().Is4() != dst.Addr().Is4() {
		return 0, netip.AddrPort{}, dst, fmt.Errorf("bad addresses in version 1 header")
	}
	return end + 2, src, dst, nil
}

func parseAddrPort(addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("bad address %q", addr)
	}
	p, ok := parseDigits(port)
	if !ok || p > 65535 {
		return netip.AddrPort{}, fmt.Errorf("bad port %q", port)
	}
	return netip.AddrPortFrom(a, uint16(p)), nil
}

func parseProxyV2(b []byte) (n int, src, dst netip.AddrPort, err error) {
	if len(b) < 16 {
		return 0, src, dst, nil
	}
	if b[12]>>4 != 2 || b[12]&15 > 1 {
		return 0, src, dst, fmt.Errorf("bad version 2 command %#x", b[12])
	}
	body := int(binary.BigEndian.Uint16(b[14:]))
	if body > lineBuffer-16 {
		return 0, src, dst, fmt.Errorf("version 2 header of %d octets", body)
	}
	n = 16 + body
	if len(b) < n {
		return 0, src, dst, nil
	}
	if b[12]&15 == 0 { // LOCAL: a health check of the proxy itself
		return n, src, dst, nil
	}
	b2, size := b[16:n], 0
	switch b[13] {
	case 0x11: // TCP over IPv4
		size = 4
	case 0x21: // TCP over IPv6
		size = 16
	default: // UNSPEC, datagrams, unix sockets: no address for us
		return n, src, dst, nil
	}
	if len(b2) < 2*size+4 {
		return 0, src, dst, fmt.Errorf("version 2 header too short for its addresses")
	}
	from, _ := netip.AddrFromSlice(b2[:size])
	to, _ := netip.AddrFromSlice(b2[size : 2*size])
	src = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(b2[2*size:]))
	dst = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(b2[2*size+2:]))
	return n, src, dst, nil
}

// xclientNames are the attributes offered (Postfix, XCLIENT_README).
var xclientNames = []string{"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"}

// mayXClient reports whether the peer may tell us who its client is. The
// question is about the host at the other end as it was before any XCLIENT.
func (c *conn) mayXClient() bool {
	return c.cfg.TrustXCLIENT != nil && c.cfg.TrustXCLIENT(c.before)
}

// xclient is the XCLIENT command. The session begins anew with the client that
// the peer names, from the hook at connect on.
func (c *conn) xclient(args string) {
	if c.tx.open {
		c.reply(replySequence)
		return
	}
	info := c.info
	info.XClient = map[string]string{}
	for k, v := range c.info.XClient {
		info.XClient[k] = v
	}
	if args == "" || !parseXClient(&info, args) {
		c.reply(&Reply{Code: 501, Status: mail.StatusBadParameter, Text: "Bad XCLIENT attribute"})
		return
	}
	c.sess.Close()
	c.sess = nil
	info.Helo, info.ESMTP, info.AuthUser = "", false, ""
	c.info = info
	c.hello, c.private = false, false
	c.openSession()
}

// parseXClient reads "NAME=value ..." into info.
func parseXClient(info *ConnInfo, args string) bool {
	remote, local := info.Remote, info.Local
	for attr := range strings.FieldsSeq(args) {
		key, value, _ := strings.Cut(attr, "=")
		key = strings.ToUpper(key)
		value, ok := decodeXtext(value)
		if !ok || !slices.Contains(xclientNames, key) {
			return false
		}
		known := value != "" && value != "[UNAVAILABLE]" && value != "[TEMPUNAVAIL]"
		if known {
			switch key {
			case "ADDR":
				remote, ok = xclientAddr(remote, value)
			case "DESTADDR":
				local, ok = xclientAddr(local, value)
			case "PORT":
				remote, ok = xclientPort(remote, value)
			case "DESTPORT":
				local, ok = xclientPort(local, value)
			}
		}
		if !ok {
			return false
		}
		info.XClient[key] = value
	}
	info.Remote, info.Local = remote, local
	return true
}

func xclientAddr(ap netip.AddrPort, s string) (netip.AddrPort, bool) {
	s, _ = cutPrefixFold(s, "IPV6:")
	a, err := netip.ParseAddr(s)
	return netip.AddrPortFrom(a.Unmap(), ap.Port()), err == nil && a.Zone() == ""
}

func xclientPort(ap netip.AddrPort, s string) (netip.AddrPort, bool) {
	p, err := strconv.ParseUint(s, 10, 16)
	return netip.AddrPortFrom(ap.Addr(), uint16(p)), err == nil
}
