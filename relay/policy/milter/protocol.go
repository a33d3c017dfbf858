package milter

// The protocol, version 6, as libmilter 8.14 and later speaks it. A packet is its
// length in four octets, a code, and data; strings end with NUL.
const version = 6

// What we say. The code of an event also names the macros that go with it.
const (
	cmdNegotiate = 'O'
	cmdMacros    = 'D'
	cmdConnect   = 'C'
	cmdHelo      = 'H'
	cmdMail      = 'M'
	cmdRcpt      = 'R'
	cmdData      = 'T'
	cmdHeader    = 'L'
	cmdEOH       = 'N'
	cmdBody      = 'B'
	cmdEOM       = 'E'
	cmdAbort     = 'A'
	cmdQuit      = 'Q'
)

// What a filter says of an event.
const (
	respAccept    = 'a'
	respContinue  = 'c'
	respDiscard   = 'd'
	respReject    = 'r'
	respTempfail  = 't'
	respSkip      = 's'
	respReply     = 'y'
	respShutdown  = '4'
	respConnFail  = 'f'
	respProgress  = 'p'
	respAddRcpt   = '+'
	respAddRcpt2  = '2' // with ESMTP arguments
	respDelRcpt   = '-'
	respBody      = 'b'
	respAddHeader = 'h'
	respChgHeader = 'm'
	respInsHeader = 'i'
	respQuarant   = 'q'
	respChgFrom   = 'e'
)

// What we let a filter do: all that version 6 knows, SMFIF_ADDHDRS to
// SMFIF_SETSYMLIST.
const allActions = 1<<9 - 1

// The bits of the protocol field: events that a filter does not want, and those it
// does not answer.
const (
	noConnect   = 1 << 0
	noHelo      = 1 << 1
	noMail      = 1 << 2
	noRcpt      = 1 << 3
	noBody      = 1 << 4
	noHeader    = 1 << 5
	noEOH       = 1 << 6
	mutHeader   = 1 << 7
	noUnknown   = 1 << 8
	noData      = 1 << 9
	canSkip     = 1 << 10
	rejectedToo = 1 << 11 // SMFIP_RCPT_REJ: wants refused recipients as well
	mutConnect  = 1 << 12
	mutHelo     = 1 << 13
	mutMail     = 1 << 14
	mutRcpt     = 1 << 15
	mutData     = 1 << 16
	mutUnknown  = 1 << 17
	mutEOH      = 1 << 18
	mutBody     = 1 << 19
	leadSpace   = 1 << 20 // SMFIP_HDR_LEADSPC: the space behind the colon is part of the value

	// What we offer. Who is refused otherwise is not told to filters. One that
	// asks for more than this does not get it, and that is no error.
	allProtocol = 1<<21 - 1 - rejectedToo
)

// event is one step of a session.
type event struct {
	cmd   byte
	stage int    // whose macros go before it, -1: none
	no    uint32 // set by a filter that does not want it
	mute  uint32 // set by a filter that does not answer it
	skip  bool   // may be answered by respSkip
	name  string
}

// The stages that have macros, by the numbers of smfi_setsymlist.
const (
	stageConnect = iota
	stageHelo
	stageMail
	stageRcpt
	stageData
	stageEOM
	stageEOH
	stages
)

var (
	evConnect = &event{cmdConnect, stageConnect, noConnect, mutConnect, false, "connect"}
	evHelo    = &event{cmdHelo, stageHelo, noHelo, mutHelo, false, "helo"}
	evMail    = &event{cmdMail, stageMail, noMail, mutMail, false, "mail"}
	evRcpt    = &event{cmdRcpt, stageRcpt, noRcpt, mutRcpt, true, "rcpt"}
	evData    = &event{cmdData, stageData, noData, mutData, false, "data"}
	evHeader  = &event{cmdHeader, -1, noHeader, mutHeader, true, "header"}
	evEOH     = &event{cmdEOH, stageEOH, noEOH, mutEOH, false, "eoh"}
	evBody    = &event{cmdBody, -1, noBody, mutBody, true, "body"}
	evEOM     = &event{cmdEOM, stageEOM, 0, 0, false, "eom"}
)

// chunk is how much of a body goes in one packet (MILTER_CHUNK_SIZE).
const chunk = 65535
