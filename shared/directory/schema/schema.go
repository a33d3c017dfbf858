/*
Package schema has the definitions of the Sun, iPlanet and Oracle messaging
attributes and object classes that an OpenLDAP server needs, in the syntax of
slapd.conf. They are included after core, cosine, inetorgperson, misc and
dyngroup, which define mail, associatedDomain, mailHost, mailRoutingAddress,
rfc822MailMember and memberURL.

The numbers are from OpenLDAP's experimental arc: nothing on the wire or on
disk depends on them.
*/
package schema

import _ "embed"

// OpenLDAP is the text of postern.schema.
//
//go:embed postern.schema
var OpenLDAP string
