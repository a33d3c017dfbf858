package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/tlsconf"
)

// Limits of what a peer may send.
const (
	maxMeta      = 512 // memberlist's limit
	maxPacket    = 1200
	maxStatement = 32 << 10
	maxMessage   = 4 << 10
	maxState     = 4 << 20
	maxNodes     = 1024
	maxServices  = 100 // three for each of 32 groups, and some
	maxGroups    = 128
	maxChain     = 5
	maxCert      = 8 << 10
	maxFields    = 512
	maxName      = 64  // node, role, version, service
	maxAddr      = 262 // host of 255, colon, port
	maxPair      = 128
)

// formatVersion begins every payload. Fields are added without a new version:
// a receiver skips those it does not know.
const formatVersion = 1

// signLabel is the purpose under which statements are signed.
const signLabel = "gossip statement"

// Reasons for refusing, the label of metrics.GossipRefused.
var (
	errFormat      = errors.New("format")
	errVersion     = errors.New("version")
	errSize        = errors.New("size")
	errCertificate = errors.New("certificate")
	errSignature   = errors.New("signature")
	errName        = errors.New("name")
	errAddress     = errors.New("address")
	errRole        = errors.New("role")
	errOld         = errors.New("old")
	errLimit       = errors.New("limit")
	errUnknown     = errors.New("unknown") // the chain has not arrived yet
	errKey         = errors.New("key")
)

var reasons = []error{
	errFormat, errVersion, errSize, errCertificate, errSignature, errName,
	errAddress, errRole, errOld, errLimit, errUnknown, errKey,
}

// reasonOf returns the label of a refusal.
func reasonOf(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r) {
			return r.Error()
		}
	}
	return errFormat.Error()
}

// statement is what a node says of itself.
type statement struct {
	name, role, version string
	addr                string // IP and port it gossips from
	seq                 uint64
	load                float64
	draining, leaving   bool
	unready             bool
	allServices         bool // services is complete
	allGroups           bool // groups is complete
	services            map[string]string
	groups              []Group
	known, format       uint32 // levels; 0 is not said, as by releases before there were any
}

// whole reports whether nothing is left out of st.
func (st *statement) whole() bool { return st.allServices && st.allGroups }

// Fields of a statement.
const (
	fieldName = iota + 1
	fieldRole
	fieldVersion
	fieldAddr
	fieldSeq
	fieldFlags
	fieldLoad
	fieldService
	fieldGroup
	fieldFormat // since release 0.2
)

const (
	flagDraining = 1 << iota
	flagLeaving
	flagAllServices
	flagAllGroups
	flagUnready // since release 0.2; those before it ignore the bit
)

func appendField(b []byte, tag uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// eachField calls f for every field of b.
func eachField(b []byte, limit int, f func(tag uint64, value []byte) error) error {
	for n := 0; len(b) > 0; n++ {
		if n == limit {
			return fmt.Errorf("%w: over %d fields", errLimit, limit)
		}
		tag, k := binary.Uvarint(b)
		if k <= 0 {
			return fmt.Errorf("%w: bad tag", errFormat)
		}
		size, l := binary.Uvarint(b[k:])
		if l <= 0 || size > uint64(len(b)-k-l) {
			return fmt.Errorf("%w: field %d is cut off", errFormat, tag)
		}
		b = b[k+l:]
		if err := f(tag, b[:size]); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

func (st *statement) encode() []byte {
	var b []byte
	b = appendField(b, fieldName, []byte(st.name))
	b = appendField(b, fieldRole, []byte(st.role))
	b = appendField(b, fieldVersion, []byte(st.version))
	b = appendField(b, fieldAddr, []byte(st.addr))
	b = appendField(b, fieldSeq, binary.AppendUvarint(nil, st.seq))
	flags := byte(0)
	for i, on := range []bool{st.draining, st.leaving, st.allServices, st.allGroups, st.unready} {
		if on {
			flags |= 1 << i
		}
	}
	b = appendField(b, fieldFlags, []byte{flags})
	b = appendField(b, fieldLoad, binary.BigEndian.AppendUint64(nil, math.Float64bits(st.load)))
	if st.known != 0 || st.format != 0 {
		v := binary.AppendUvarint(nil, uint64(st.known))
		b = appendField(b, fieldFormat, binary.AppendUvarint(v, uint64(st.format)))
	}
	for _, name := range sortedKeys(st.services) {
		v := append([]byte{byte(len(name))}, name...)
		b = appendField(b, fieldService, append(v, st.services[name]...))
	}
	for _, g := range st.groups {
		v := []byte{0}
		if g.Serving {
			v[0] = 1
		}
		v = binary.AppendUvarint(v, g.Term)
		v = binary.AppendUvarint(v, g.Applied)
		b = appendField(b, fieldGroup, append(v, g.Pair...))
	}
	return b
}

// decodeStatement reads a statement and checks its limits.
func decodeStatement(b []byte) (*statement, error) {
	if len(b) > maxStatement {
		return nil, fmt.Errorf("%w: statement of %d octets", errSize, len(b))
	}
	st := &statement{services: map[string]string{}}
	pairs := map[string]bool{}
	err := eachField(b, maxFields, func(tag uint64, v []byte) error {
		switch tag {
		case fieldService:
			return st.decodeService(v)
		case fieldGroup:
			g, err := decodeGroup(v)
			if err != nil {
				return err
			}
			if pairs[g.Pair] || len(st.groups) == maxGroups {
				return fmt.Errorf("%w: pair %q is there twice, or over %d groups", errLimit, g.Pair, maxGroups)
			}
			pairs[g.Pair] = true
			st.groups = append(st.groups, g)
			return nil
		}
		return st.decodeField(tag, v)
	})
	if err != nil {
		return nil, err
	}
	if !validText(st.name, maxName) || st.seq == 0 || st.addr == "" {
		return nil, fmt.Errorf("%w: name, address or sequence number missing", errFormat)
	}
	return st, nil
}

func (st *statement) decodeField(tag uint64, v []byte) error {
	switch tag {
	case fieldName:
		return text(&st.name, v)
	case fieldRole:
		return text(&st.role, v)
	case fieldVersion:
		return text(&st.version, v)
	case fieldAddr:
		if len(v) > maxName {
			return fmt.Errorf("%w: address of %d octets", errSize, len(v))
		}
		ap, err := netip.ParseAddrPort(string(v))
		if err != nil {
			return fmt.Errorf("%w: address: %v", errFormat, err)
		}
		st.addr = ap.String()
	case fieldSeq:
		n, k := binary.Uvarint(v)
		if k != len(v) || k <= 0 || n > math.MaxInt64 {
			return fmt.Errorf("%w: sequence number", errFormat)
		}
		st.seq = n
	case fieldFlags:
		if len(v) == 0 {
			return fmt.Errorf("%w: flags", errFormat)
		}
		st.draining = v[0]&flagDraining != 0
		st.leaving = v[0]&flagLeaving != 0
		st.allServices = v[0]&flagAllServices != 0
		st.allGroups = v[0]&flagAllGroups != 0
		st.unready = v[0]&flagUnready != 0
	case fieldFormat:
		for _, to := range []*uint32{&st.known, &st.format} {
			n, k := binary.Uvarint(v)
			if k <= 0 || n > math.MaxUint32 {
				return fmt.Errorf("%w: level", errFormat)
			}
			*to, v = uint32(n), v[k:]
		}
	case fieldLoad:
		if len(v) != 8 {
			return fmt.Errorf("%w: load", errFormat)
		}
		st.load = math.Float64frombits(binary.BigEndian.Uint64(v))
		if !finite(st.load) {
			return fmt.Errorf("%w: load is not a number", errFormat)
		}
	}
	return nil
}

func (st *statement) decodeService(v []byte) error {
	if len(v) == 0 || len(v) < 1+int(v[0]) {
		return fmt.Errorf("%w: service", errFormat)
	}
	name, addr := string(v[1:1+v[0]]), string(v[1+v[0]:])
	if !validText(name, maxName) || !validText(addr, maxAddr) {
		return fmt.Errorf("%w: service %.*q", errFormat, maxName, name)
	}
	if len(st.services) == maxServices {
		return fmt.Errorf("%w: over %d services", errLimit, maxServices)
	}
	st.services[name] = addr
	return nil
}

func decodeGroup(v []byte) (Group, error) {
	if len(v) == 0 {
		return Group{}, fmt.Errorf("%w: group", errFormat)
	}
	g := Group{Serving: v[0]&1 != 0}
	v = v[1:]
	for _, n := range []*uint64{&g.Term, &g.Applied} {
		x, k := binary.Uvarint(v)
		if k <= 0 {
			return Group{}, fmt.Errorf("%w: group", errFormat)
		}
		*n, v = x, v[k:]
	}
	if g.Pair = string(v); !validText(g.Pair, maxPair) {
		return Group{}, fmt.Errorf("%w: pair name", errFormat)
	}
	return g, nil
}

func text(dst *string, v []byte) error {
	if !validText(string(v), maxName) {
		return fmt.Errorf("%w: text of %d octets", errFormat, len(v))
	}
	*dst = string(v)
	return nil
}

// validText accepts printable ASCII without blanks.
func validText(s string, limit int) bool {
	return s != "" && len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// sealed is a statement with its signature:
//
//	version(1) fingerprint(32) len(1) signature statement
//
// The signature covers version and statement.
type sealed struct {
	*statement
	fp     tlsconf.Fingerprint
	sig    []byte
	signed []byte
	raw    []byte
}

const sealedHead = 1 + len(tlsconf.Fingerprint{}) + 1

// seal signs st.
func seal(id Identity, st *statement) ([]byte, error) {
	signed := append([]byte{formatVersion}, st.encode()...)
	fp, sig, err := id.Sign(signLabel, signed)
	if err != nil {
		return nil, err
	}
	if len(sig) > math.MaxUint8 {
		return nil, fmt.Errorf("%w: signature of %d octets", errSize, len(sig))
	}
	raw := append([]byte{formatVersion}, fp[:]...)
	raw = append(raw, byte(len(sig)))
	raw = append(raw, sig...)
	return append(raw, signed[1:]...), nil
}

// open reads a sealed statement. It does not check the signature. The result
// refers to raw.
func open(raw []byte) (*sealed, error) {
	if len(raw) < sealedHead {
		return nil, fmt.Errorf("%w: %d octets", errFormat, len(raw))
	}
	if raw[0] != formatVersion {
		return nil, fmt.Errorf("%w: %d, this node knows %d", errVersion, raw[0], formatVersion)
	}
	s := &sealed{raw: raw}
	copy(s.fp[:], raw[1:])
	rest := raw[sealedHead:]
	n := int(raw[sealedHead-1])
	if n > len(rest) {
		return nil, fmt.Errorf("%w: signature is cut off", errFormat)
	}
	s.sig = rest[:n]
	s.signed = append([]byte{formatVersion}, rest[n:]...)
	var err error
	s.statement, err = decodeStatement(rest[n:])
	return s, err
}

// entry is one node in a push/pull.
type entry struct {
	chain [][]byte // DER, leaf first
	raw   []byte   // sealed statement
}

const (
	fieldCert = iota + 1
	fieldStatement
)

const fieldEntry = 1

// encodeState writes entries for a push/pull, as many as fit.
func encodeState(entries []entry) []byte {
	b := []byte{formatVersion}
	for _, e := range entries {
		var v []byte
		for _, der := range e.chain {
			v = appendField(v, fieldCert, der)
		}
		v = appendField(v, fieldStatement, e.raw)
		if len(b)+len(v)+2*binary.MaxVarintLen32 > maxState {
			break
		}
		b = appendField(b, fieldEntry, v)
	}
	return b
}

// decodeState reads what encodeState has written. The entries refer to b.
func decodeState(b []byte) ([]entry, error) {
	if len(b) > maxState {
		return nil, fmt.Errorf("%w: state of %d octets", errSize, len(b))
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty state", errFormat)
	}
	if b[0] != formatVersion {
		return nil, fmt.Errorf("%w: state of version %d", errVersion, b[0])
	}
	var entries []entry
	err := eachField(b[1:], maxNodes+maxFields, func(tag uint64, v []byte) error {
		if tag != fieldEntry {
			return nil
		}
		if len(entries) == maxNodes {
			return fmt.Errorf("%w: over %d nodes", errLimit, maxNodes)
		}
		e, err := decodeEntry(v)
		entries = append(entries, e)
		return err
	})
	return entries, err
}

func decodeEntry(b []byte) (entry, error) {
	var e entry
	err := eachField(b, maxFields, func(tag uint64, v []byte) error {
		switch tag {
		case fieldCert:
			if len(e.chain) == maxChain || len(v) > maxCert {
				return fmt.Errorf("%w: certificate chain", errSize)
			}
			e.chain = append(e.chain, v)
		case fieldStatement:
			e.raw = v
		}
		return nil
	})
	if err == nil && (len(e.chain) == 0 || len(e.raw) == 0) {
		err = fmt.Errorf("%w: node without certificate or statement", errFormat)
	}
	return e, err
}
