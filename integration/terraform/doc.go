// Package terraform tests what stands in the folder terraform: that every file is
// formatted and the plans of the topology module are as they should be, that
// daemons and nft take what it renders, that the local example makes a cluster
// whose every port is as the matrix says and whose tiers are upgraded without
// losing mail, and that the modules for clouds leave out nothing of the plan.
//
// It runs Terraform or, where that is not installed, OpenTofu, and downloads
// nothing: only what both have built in is used.
package terraform
