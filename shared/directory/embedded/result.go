package embedded

import "fmt"

// resultError is an LDAP result that is not success.
type resultError struct {
	code    int
	matched string
	text    string
}

func (e *resultError) Error() string { return fmt.Sprintf("LDAP result %d: %s", e.code, e.text) }

func result(code int, text string) error { return &resultError{code: code, text: text} }

// Result codes of RFC 4511 4.1.9 that are used here.
const (
	codeSuccess             = 0
	codeOperationsError     = 1
	codeProtocolError       = 2
	codeTimeLimit           = 3
	codeSizeLimit           = 4
	codeCompareFalse        = 5
	codeCompareTrue         = 6
	codeAuthMethod          = 7
	codeAdminLimit          = 11
	codeCriticalExtension   = 12
	codeConfidentiality     = 13
	codeNoSuchAttribute     = 16
	codeConstraint          = 19
	codeAttributeExists     = 20
	codeInvalidSyntax       = 21
	codeNoSuchObject        = 32
	codeInvalidDN           = 34
	codeInappropriateAuth   = 48
	codeInvalidCredentials  = 49
	codeInsufficientAccess  = 50
	codeUnwilling           = 53
	codeNotAllowedOnNonLeaf = 66
	codeNotAllowedOnRDN     = 67
	codeEntryExists         = 68
	codeAffectsMultipleDSAs = 71
	codeOther               = 80
)
