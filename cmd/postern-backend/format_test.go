package main

import (
	"testing"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/replica/voter"
)

func TestLevelOfRelease(t *testing.T) {
	if command.Level != version.Format || voter.Format != version.Format {
		t.Errorf("entries know level %d, directories %d, the release says %d", command.Level, voter.Format, version.Format)
	}
}
