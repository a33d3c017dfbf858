// Package terraform tests what stands in the folder terraform: that every file is
// formatted, that the plans of the topology module are as they should be, that the
// daemons, the operator's tool, nft and our resolver take what it renders, and that
// the local example makes a cluster on this host, firewalled as the specification
// says, whose tiers go to another release under load, and leaves nothing behind.
//
// It runs Terraform or, where that is not installed, OpenTofu, and downloads
// nothing: only what both have built in is used.
package terraform
