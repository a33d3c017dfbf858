package netns

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Ports are the same on every node: each has an address of its own.
const (
	portSMTP       = 25
	portSubmission = 587
	portIMAP       = 1430
	portIMAPS      = 993
	portLMTP       = 2424
	portPOP        = 1100
	portRaft       = 7400
	portGossip     = 7946
	portLDAP       = 389
	portDNS        = 53
)

// pairName is the name of a pair; the first one, where all users are, is number 0.
func pairName(n int) string { return fmt.Sprintf("pair%d", n+1) }

// mailDomain is the domain of the users (RFC 2606).
const mailDomain = "postern.test"

func at(addr string, port int) string { return fmt.Sprintf("%s:%d", addr, port) }

type yamlMap = map[string]any

// member is a node of a pair.
type member struct {
	host string
	id   string
	role string
	pair string
}

// layout is what the files of a run are made from.
type layout struct {
	dir    string
	relays []string
	voters []member
	addr   map[string]string
	// root is where the files of nodes are seen from this process, "" for where
	// the nodes see them.
	root string
	// segment is the size of a segment of the log, "" for the usual one.
	segment string
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (l *layout) nodeDir(host string) string { return filepath.Join(l.dir, host) }

// file is the place of a file of a node for this process.
func (l *layout) file(host string, name ...string) string {
	return filepath.Join(append([]string{l.root + l.nodeDir(host)}, name...)...)
}

func (l *layout) configFile(host string) string { return filepath.Join(l.dir, host+".yaml") }

func (l *layout) hosts() []string {
	hosts := append([]string(nil), l.relays...)
	for _, m := range l.voters {
		hosts = append(hosts, m.host)
	}
	return hosts
}

// write makes certificates and the configuration of every node.
func (l *layout) write(now time.Time) error {
	ca, err := tlsconf.InitCA(filepath.Join(l.dir, "ca"), "drill", now)
	if err != nil {
		return err
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	if err := os.WriteFile(l.gossipKey(), []byte(base64.StdEncoding.EncodeToString(key[:])+"\n"), 0o600); err != nil {
		return err
	}
	for _, r := range l.relays {
		public := tlsconf.Request{Node: "localhost", IPs: []net.IP{net.ParseIP(l.addr[r])}, DNSNames: []string{"localhost", r + "." + mailDomain}}
		if err := l.issue(ca, r, "public", public, now); err != nil {
			return err
		}
		if err := l.issue(ca, r, "node", tlsconf.Request{Node: r, Roles: []tlsconf.Role{tlsconf.RelayMX, tlsconf.RelayProxy}}, now); err != nil {
			return err
		}
		if err := l.save(r, l.relay(r)); err != nil {
			return err
		}
	}
	for _, m := range l.voters {
		role := tlsconf.Backend
		if m.role == witness {
			role = tlsconf.Witness
		}
		if err := l.issue(ca, m.host, "node", tlsconf.Request{Node: m.host, Roles: []tlsconf.Role{role}}, now); err != nil {
			return err
		}
		if err := l.save(m.host, l.store(m)); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) gossipKey() string { return filepath.Join(l.dir, "gossip.key") }

func (l *layout) issue(ca *tlsconf.CA, host, name string, req tlsconf.Request, now time.Time) error {
	if _, err := ca.Issue(l.file(host, "tls", name), req, now); err != nil {
		return fmt.Errorf("certificate of %s: %w", host, err)
	}
	return nil
}

func (l *layout) save(host string, c yamlMap) error {
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(l.configFile(host), text, 0o600)
}

func (l *layout) common(host string) yamlMap {
	var join []string
	for _, h := range l.hosts() {
		if h != host {
			join = append(join, at(l.addr[h], portGossip))
		}
	}
	return yamlMap{
		"node": host, "cluster": "drill", "dir": l.nodeDir(host),
		"tls":    yamlMap{"ca": filepath.Join(l.dir, "ca", "ca.pem")},
		"gossip": yamlMap{"listen": at(l.addr[host], portGossip), "join": join, "key_file": l.gossipKey()},
		"log":    yamlMap{"format": "text"},
	}
}

func (l *layout) relay(host string) yamlMap {
	a := l.addr[host]
	c := l.common(host)
	c["hostname"] = host + "." + mailDomain
	c["smtp"] = yamlMap{"listen": []string{at(a, portSMTP)}, "max_sessions": 2000, "max_per_address": 2000}
	c["submission"] = yamlMap{"listen": []string{at(a, portSubmission)}}
	c["imap"] = yamlMap{"tls_listen": []string{at(a, portIMAPS)}}
	c["proxy"] = yamlMap{"max_per_address": drill.MaxSessions}
	c["directory"] = yamlMap{"urls": []string{"ldap://" + at(l.addr[directoryHost], portLDAP)}, "base": baseDN, "default_domain": mailDomain}
	c["dns"] = yamlMap{"servers": []string{at(l.addr[directoryHost], portDNS)}}
	c["retry"] = yamlMap{"schedule": []string{"2s", "5s", "10s", "30s", "1m"}}
	var pairs []yamlMap
	for _, m := range l.voters {
		if b := l.addr[m.host]; m.role != witness {
			pairs = append(pairs, yamlMap{"pair": m.pair, "node": m.host, "lmtp": at(b, portLMTP), "imap": at(b, portIMAP), "pop3": at(b, portPOP)})
		}
	}
	c["pairs"] = pairs
	return c
}

func (l *layout) store(m member) yamlMap {
	c := l.common(m.host)
	a := l.addr[m.host]
	raft := yamlMap{"listen": at(a, portRaft)}
	if l.segment != "" {
		raft["segment_size"] = l.segment
	}
	c["raft"] = raft
	var members []yamlMap
	for _, v := range l.voters {
		if v.pair != m.pair {
			continue
		}
		e := yamlMap{"node": v.host, "id": v.id, "addr": at(l.addr[v.host], portRaft)}
		if v.role == witness {
			e["witness"] = "yes"
		}
		members = append(members, e)
	}
	c["groups"] = []yamlMap{{"pair": m.pair, "members": members}}
	if m.role != witness {
		c["serve"] = yamlMap{"lmtp": at(a, portLMTP), "imap": at(a, portIMAP), "pop3": at(a, portPOP)}
	}
	return c
}
