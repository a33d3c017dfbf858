package netns

import (
	"os"
	"os/exec"
	"syscall"
)

// Socket is the admin socket of a node.
func (lab *Lab) Socket(host string) string { return lab.l.file(host, "admin.sock") }

// Directory is the one that the relays ask, for somebody who may change it.
func (lab *Lab) Directory() Directory {
	return Directory{
		Domain: mailDomain, URL: "ldap://" + at(lab.l.addr[directoryHost], portLDAP), Base: baseDN, BindDN: rootDN, Password: lab.root,
	}
}

// Manage is a program of the operator's, on the machine where the directory is. It
// ends with this process.
func (lab *Lab) Manage(program string, args ...string) (*exec.Cmd, error) {
	ip, err := tool("ip")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(ip, append([]string{"netns", "exec", lab.f.ns(directoryHost), program}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC"}
	cmd.Dir = lab.l.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// Spawn starts a program that Manage has made.
func (lab *Lab) Spawn(cmd *exec.Cmd) error { return lab.spawner.start(cmd) }
