/*
Package upgrade runs two releases beside each other: the programs of the release
before, built from the history, and those of this tree, under load, in both orders
of the tiers, back again, and over finalize. README.md has what it measured.
*/
package upgrade
