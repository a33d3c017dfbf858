# This folder is only where `terraform test` runs; see modules/topology/README.md.
terraform {
  required_version = ">= 1.9"
}
