/*
Package mapping reads and applies mapping tables (mta.md 5): named lists of
patterns and templates, in the format of the old servers' mapping file.

	! a comment
	PAGERS

	  *|$_+*    "$0"@pager.example$Y
	  *         $N

	Parse(file, text) -> Tables -> Apply(table, probe) -> text and flags

A name in the first column begins a table; its entries are indented, a pattern
and a template, parted by blanks. "$" takes the meaning of a blank, "*", "%",
or "$" away. A backslash at the end of a line goes on with the next.

In a pattern, compared without case: * any run, % one character; $A $B $D $H $O $S
$T $X before either: letters, binary, decimal, hexadecimal, octal digits, symbols
(letters, digits, _ and $), blanks, hexadecimal; $[abc] before either: one of
these, $[^...] none of them, with a-z for a range; $_ before a wildcard: as few
as possible; $@ from here on wildcards are not kept, $^ they are again; $n* the
same as the n-th that was kept.

In a template: $0 to $9 what wildcards matched; $\ $^ $_ what follows in lower
case, upper case, as it is; $|NAME;text| what another table makes of text, and
without a match there this entry does not match; $C go on with the next entry and
the result as input, $L the same, and once more from the top when the table is at
its end, $R from the first entry, $E end, as without any of them; $Y $N $F $T $I
flags, which stay until another entry matches.

What it keeps true:

  - A file is taken whole or not at all; the error names file and line. What
    this package does not know (LDAP, general tables, address prefixes, sequence
    numbers, chance, site routines) is such an error, so nothing is matched by a
    table that means something else.
  - Apply ends: entries applied, tables inside each other, characters compared and
    the length of the result are bounded; beyond that it is ErrLimit.

Tables do not change and may be used by any number of goroutines. What a flag
means is the caller's business.
*/
package mapping
