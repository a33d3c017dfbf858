package netns

import "github.com/postern-mail/postern/ha/drill"

// Disk is where nodes keep their data.
type Disk int

// The disks.
const (
	HostDisk  Disk = iota
	SmallDisk      // of data replicas: a file system in memory that can be filled
	OwnDisk        // of every node: ext4 on a loop device, which can be slow, fail, and lose what was not flushed
)

// DiskFor is the disk that a scenario needs.
func DiskFor(s *drill.Scenario) Disk {
	for _, k := range s.Needs {
		switch k {
		case drill.FillDisk:
			return SmallDisk
		case drill.MendDisk:
			return OwnDisk
		}
	}
	if s.Name == "random" && haveDiskTools() == nil {
		return OwnDisk
	}
	return HostDisk
}
