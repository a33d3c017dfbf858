# This folder is only where `terraform test` runs; see README.md.
terraform {
  required_version = ">= 1.9"
}
