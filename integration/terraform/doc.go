// Package terraform tests what stands in the folder terraform: that every file is
// formatted, that the plans of the topology module are as they should be, and that
// the daemons, the operator's tool, nft and our resolver take what it renders.
//
// It runs Terraform or, where that is not installed, OpenTofu, and downloads
// nothing: only what both have built in is used.
package terraform
