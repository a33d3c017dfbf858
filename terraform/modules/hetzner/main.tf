# A private network with the zones of the plan as subnets and a server for every
# node. Firewalls of this cloud see the public interface only: between the zones,
# the packet filter of each machine is the firewall.
locals {
  cluster = var.plan.cluster.name
  nodes   = var.plan.nodes
  subnets = merge([for site, z in var.plan.zones : { for zone, cidr in z.networks : "${site}/${zone}" => cidr }]...)
}

module "machines" {
  source   = "../machines"
  plan     = var.plan
  ssh_keys = var.ssh_keys
}

resource "hcloud_network" "cluster" {
  name     = local.cluster
  ip_range = var.cidr
  labels   = { cluster = local.cluster }
}

resource "hcloud_network_subnet" "zone" {
  for_each     = local.subnets
  network_id   = hcloud_network.cluster.id
  type         = "cloud"
  network_zone = var.network_zone
  ip_range     = each.value
}

resource "hcloud_placement_group" "tier" {
  for_each = toset([for n in values(local.nodes) : "${n.tier}-${n.site}"])
  name     = "${local.cluster}-${each.key}"
  type     = "spread"
  labels   = { cluster = local.cluster }
}

# What may come to a relay from the Internet, and go from it; the rest of the matrix
# is between private addresses.
resource "hcloud_firewall" "relay" {
  name   = "${local.cluster}-relay"
  labels = { cluster = local.cluster }

  dynamic "rule" {
    for_each = { for k, r in module.machines.security.in : k => r if r.tier == "relay" && r.cidr == "0.0.0.0/0" }
    content {
      direction   = "in"
      protocol    = rule.value.protocol
      port        = tostring(rule.value.port)
      source_ips  = ["0.0.0.0/0"]
      description = rule.value.id
    }
  }

  dynamic "rule" {
    for_each = { for k, r in module.machines.security.out : k => r if r.tier == "relay" && r.cidr == "0.0.0.0/0" }
    content {
      direction       = "out"
      protocol        = rule.value.protocol
      port            = tostring(rule.value.port)
      destination_ips = ["0.0.0.0/0"]
      description     = rule.value.id
    }
  }
}

# Versions are changed by postern upgrade, node by node, and never by a new server:
# what would replace one is ignored.
resource "hcloud_server" "node" {
  for_each           = local.nodes
  name               = each.key
  image              = var.images[each.value.tier]
  server_type        = var.server_types[each.value.tier]
  location           = each.value.site
  user_data          = module.machines.user_data[each.key]
  placement_group_id = hcloud_placement_group.tier["${each.value.tier}-${each.value.site}"].id
  firewall_ids       = each.value.tier == "relay" ? [hcloud_firewall.relay.id] : []
  delete_protection  = var.protect && each.value.tier != "relay"
  rebuild_protection = var.protect && each.value.tier != "relay"

  # A store has no address on the Internet at all.
  public_net {
    ipv4_enabled = each.value.tier == "relay"
    ipv4         = lookup(var.public_addresses, each.key, null)
    ipv6_enabled = false
  }

  network {
    subnet_id = hcloud_network_subnet.zone["${each.value.site}/${each.value.zone}"].id
    ip        = each.value.address
    alias_ips = []
  }

  labels = {
    cluster = local.cluster
    tier    = each.value.tier
    pairs   = join("_", each.value.groups)
  }

  lifecycle {
    ignore_changes = [image, user_data]
  }
}

# The greeting of a relay is the name of its address. A primary IP has its name
# elsewhere when it is not among these.
resource "hcloud_rdns" "relay" {
  for_each   = { for name, n in local.nodes : name => n if n.tier == "relay" }
  server_id  = hcloud_server.node[each.key].id
  ip_address = hcloud_server.node[each.key].ipv4_address
  dns_ptr    = each.value.hostname
}

resource "hcloud_zone_rrset" "mail" {
  for_each = var.zone == "" ? {} : { for r in var.plan.dns.records : "${r.name} ${r.type}" => r.value... }
  zone     = var.zone
  name     = split(" ", each.key)[0] == var.zone ? "@" : trimsuffix(split(" ", each.key)[0], ".${var.zone}")
  type     = split(" ", each.key)[1]
  ttl      = var.plan.dns.ttl
  records  = [for v in each.value : { value = split(" ", each.key)[1] == "TXT" ? join(" ", [for part in regexall(".{1,250}", v) : "\"${part}\""]) : v }]
}
