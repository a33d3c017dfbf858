# Two relays, a pair and its witness over three locations. See README.md; this was
# never applied.
terraform {
  required_version = ">= 1.9"
  required_providers {
    hcloud = {
      source  = "hetznercloud/hcloud"
      version = ">= 1.54, < 2.0"
    }
  }
}

provider "hcloud" {} # HCLOUD_TOKEN

variable "domain" {
  description = "Mail domain."
  type        = string
}

variable "images" {
  description = "Snapshot of each tier, by id."
  type        = object({ relay = string, backend = string, witness = string })
}

variable "ssh_keys" {
  description = "Public keys of the operators."
  type        = list(string)
}

locals {
  # Relays by number stand in the sites in turn, as the topology module places them.
  relays = { relay1 = "fsn1-dc14", relay2 = "nbg1-dc3" }
}

resource "hcloud_primary_ip" "relay" {
  for_each      = local.relays
  name          = each.key
  datacenter    = each.value
  type          = "ipv4"
  assignee_type = "server"
  auto_delete   = false
}

module "topology" {
  source  = "../../modules/topology"
  cluster = "example"
  domain  = var.domain
  relays  = length(local.relays)
  pairs   = 1
  sites = [
    { name = "fsn1", cidr = "10.77.0.0/20" },
    { name = "nbg1", cidr = "10.77.16.0/20" },
    { name = "hel1", cidr = "10.77.32.0/20" },
  ]
  versions         = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory        = { base = "o=isp", start_tls = true, ca = "ldap-ca.pem" }
  ssh_port         = 22
  public_addresses = { for name, ip in hcloud_primary_ip.relay : name => ip.ip_address }
}

module "cloud" {
  source           = "../../modules/hetzner"
  plan             = module.topology
  images           = var.images
  ssh_keys         = var.ssh_keys
  public_addresses = { for name, ip in hcloud_primary_ip.relay : name => ip.id }
}

output "complete" {
  value = module.cloud.complete
}

output "operator" {
  value = module.cloud.operator
}
