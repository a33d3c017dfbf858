/*
Package config reads a node's configuration: one YAML file, then POSTERN_*
variables of the environment, then flags; the later wins.

table.go holds every option: name, type, unit, default, tier, what a change
needs, help. The structs Relay, Backend and Witness have one field for each
option of their tier, and tests hold table, structs, reference page and the
daemons' use of them together.

A file with an unknown key is refused with the line and the nearest name that
exists; so is a value that does not fit its type or its bounds. What Load
returns is complete, checked and never changed afterwards. A reload builds a new
value, and Live swaps it in whole or keeps the old one and says why. viper is
used inside Load only.

Secrets have the type Secret, which prints as three stars wherever it is
printed.
*/
package config
