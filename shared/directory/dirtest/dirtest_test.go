package dirtest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func onEmbedded(t testing.TB, ldif []byte) Server { return Embedded(t, ldif) }

func onOpenLDAP(t testing.TB, ldif []byte) Server { return OpenLDAP(t, ldif) }

func TestEmbedded(t *testing.T) { Run(t, onEmbedded, nil) }

func TestOpenLDAP(t *testing.T) { Run(t, onOpenLDAP, nil) }

func TestEmbeddedSun(t *testing.T) { RunSun(t, onEmbedded) }

func TestOpenLDAPSun(t *testing.T) { RunSun(t, onOpenLDAP) }

func on389(t testing.TB, ldif []byte) Server { return DS389(t, ldif) }

func Test389(t *testing.T) { Run(t, on389, nil) }

func Test389Sun(t *testing.T) { RunSun(t, on389) }
