/*
Package clusterfile is cluster.json: where the nodes of a development cluster
are and how to log in. `postern dev` writes it when every part is ready and
whenever a process changes; tests, benchmarks and the commands with --dir read
it.

The file is replaced by rename, so a reader sees one whole version. Fields are
only added within a version. It holds passwords of made-up people and is
readable for its owner only.
*/
package clusterfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Name is the name of the file in the cluster's folder.
const Name = "cluster.json"

// Version is the version of the format.
const Version = 1

// maxFile bounds what Read takes in.
const maxFile = 64 << 20

// File is a cluster. Addresses are host:port, or "" where nothing listens.
type File struct {
	Version   int       `json:"version"`
	Domain    string    `json:"domain"`
	CA        string    `json:"ca"` // file with the CA of all certificates, PEM
	Relays    []Relay   `json:"relays"`
	Pairs     []Pair    `json:"pairs"`
	Directory Directory `json:"directory"`
	DNS       string    `json:"dns"`
	Users     []User    `json:"users"`
	Lists     []List    `json:"lists"`
	Admin     AdminCert `json:"admin"`
}

// Relay is a tier-1 node. PID is 0 while it does not run.
type Relay struct {
	Name        string `json:"name"`
	PID         int    `json:"pid"`
	SMTP        string `json:"smtp"`
	Submission  string `json:"submission"`
	Submissions string `json:"submissions"`
	IMAP        string `json:"imap"`
	IMAPS       string `json:"imaps"`
	POP3        string `json:"pop3"`
	POP3S       string `json:"pop3s"`
	Admin       string `json:"admin"` // unix socket
	AdminTLS    string `json:"admin_tls"`
	Metrics     string `json:"metrics"`
	Gossip      string `json:"gossip"`
	Dir         string `json:"dir"`
	Public      string `json:"public,omitempty"` // SMTP on an address of its own, with --responder
	DNS         string `json:"dns,omitempty"`    // its responder
}

// Pair is a raft group.
type Pair struct {
	Name  string `json:"name"`
	Nodes []Node `json:"nodes"`
}

// The roles of a Node.
const (
	RoleData    = "data"
	RoleWitness = "witness"
)

// Node is a replica of a pair. LMTP and IMAP are plain ports for measuring;
// the others with TLS in their key ask for a relay's certificate.
type Node struct {
	Name     string `json:"name"`
	PID      int    `json:"pid"`
	Role     string `json:"role"`
	LMTP     string `json:"lmtp"`
	IMAP     string `json:"imap"`
	Raft     string `json:"raft"`
	Admin    string `json:"admin"` // unix socket
	Dir      string `json:"dir"`
	LMTPTLS  string `json:"lmtp_tls,omitempty"`
	IMAPTLS  string `json:"imap_tls,omitempty"`
	POP3TLS  string `json:"pop3_tls,omitempty"`
	AdminTLS string `json:"admin_tls"`
	Metrics  string `json:"metrics"`
	Gossip   string `json:"gossip"`
}

// Directory is the LDAP server and who may change it.
type Directory struct {
	URL      string `json:"url"`
	TLSURL   string `json:"tls_url,omitempty"` // TLS from the start, by the cluster's CA
	Base     string `json:"base"`
	BindDN   string `json:"bind_dn"`
	Password string `json:"password"`
}

// User is somebody who can log in.
type User struct {
	Login    string `json:"login"`
	Password string `json:"password"`
	Address  string `json:"address"`
	Pair     string `json:"pair"`
}

// List is a mailing list.
type List struct {
	Address string `json:"address"`
	Members int    `json:"members"`
}

// AdminCert is a certificate of role admin, for the nodes' admin ports.
type AdminCert struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Read reads the file of the cluster in dir.
func Read(dir string) (*File, error) {
	name := filepath.Join(dir, Name)
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d octets are too many", name, fi.Size())
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.Version != Version {
		return nil, fmt.Errorf("%s: version %d, this program knows version %d", name, f.Version, Version)
	}
	return &f, nil
}

// Write replaces the file of the cluster in dir.
func (f *File) Write(dir string) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return Replace(filepath.Join(dir, Name), append(data, '\n'), 0o600)
}

// Replace writes a file under another name and renames it into place.
func Replace(name string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
