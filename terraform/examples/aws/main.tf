# Two relays, two pairs and their witnesses over three availability zones. See
# README.md; this was never applied.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

provider "aws" {
  region = "eu-central-1"
}

variable "domain" {
  description = "Mail domain."
  type        = string
}

variable "images" {
  description = "AMI of each tier."
  type        = object({ relay = string, backend = string, witness = string })
}

variable "ssh_keys" {
  description = "Public keys of the operators."
  type        = list(string)
}

locals {
  relays = 2
}

resource "aws_eip" "relay" {
  for_each = toset([for i in range(local.relays) : "relay${i + 1}"])
  domain   = "vpc"
  tags     = { Name = each.key }
}

module "topology" {
  source  = "../../modules/topology"
  cluster = "example"
  domain  = var.domain
  relays  = local.relays
  pairs   = 2
  sites = [
    { name = "eu-central-1a", cidr = "10.77.0.0/20" },
    { name = "eu-central-1b", cidr = "10.77.16.0/20" },
    { name = "eu-central-1c", cidr = "10.77.32.0/20" },
  ]
  versions         = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory        = { base = "o=isp", start_tls = true, ca = "ldap-ca.pem" }
  ssh_port         = 22
  time_servers     = ["169.254.169.123"]
  public_addresses = { for name, ip in aws_eip.relay : name => ip.public_ip }
}

module "cloud" {
  source           = "../../modules/aws"
  plan             = module.topology
  images           = var.images
  ssh_keys         = var.ssh_keys
  public_addresses = { for name, ip in aws_eip.relay : name => ip.allocation_id }
}

output "complete" {
  value = module.cloud.complete
}

output "operator" {
  value = module.cloud.operator
}
