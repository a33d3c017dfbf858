# Two relays, a pair and its witness over three availability zones. See README.md;
# this was never applied.
terraform {
  required_version = ">= 1.9"
  required_providers {
    openstack = {
      source  = "terraform-provider-openstack/openstack"
      version = ">= 2.0, < 4.0"
    }
  }
}

provider "openstack" {} # clouds.yaml, OS_CLOUD

variable "domain" {
  description = "Mail domain."
  type        = string
}

variable "zones" {
  description = "Names of three availability zones."
  type        = list(string)
}

variable "images" {
  description = "Image of each tier, by id."
  type        = object({ relay = string, backend = string, witness = string })
}

variable "flavors" {
  description = "Flavor of each tier, by name."
  type        = object({ relay = string, backend = string, witness = string })
}

variable "ssh_keys" {
  description = "Public keys of the operators."
  type        = list(string)
}

variable "external_network" {
  description = "Name of the network that leads to the Internet."
  type        = string
}

resource "openstack_networking_floatingip_v2" "relay" {
  for_each = toset(["relay1", "relay2"])
  pool     = var.external_network
}

module "topology" {
  source           = "../../modules/topology"
  cluster          = "example"
  domain           = var.domain
  relays           = 2
  pairs            = 1
  sites            = [for i, z in var.zones : { name = z, cidr = cidrsubnet("10.77.0.0/16", 4, i) }]
  versions         = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory        = { base = "o=isp", start_tls = true, ca = "ldap-ca.pem" }
  ssh_port         = 22
  public_addresses = { for name, ip in openstack_networking_floatingip_v2.relay : name => ip.address }
}

module "cloud" {
  source           = "../../modules/openstack"
  plan             = module.topology
  images           = var.images
  flavors          = var.flavors
  ssh_keys         = var.ssh_keys
  external_network = var.external_network
  public_addresses = { for name, ip in openstack_networking_floatingip_v2.relay : name => ip.address }
}

output "complete" {
  value = module.cloud.complete
}

output "operator" {
  value = module.cloud.operator
}
