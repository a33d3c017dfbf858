package dirtest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEmbedded(t *testing.T) {
	Run(t, func(t testing.TB, ldif []byte) Server { return Embedded(t, ldif) }, nil)
}

func TestOpenLDAP(t *testing.T) {
	Run(t, func(t testing.TB, ldif []byte) Server { return OpenLDAP(t, ldif) }, nil)
}
