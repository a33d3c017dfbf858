# A network with the zones of the plan as subnets for every site, security groups
# from the ports matrix, and a server for every node.
locals {
  cluster = var.plan.cluster.name
  nodes   = var.plan.nodes
  subnets = merge([for site, z in var.plan.zones : { for zone, cidr in z.networks : "${site}/${zone}" => { cidr = cidr, gateway = z.gateways[zone], zone = zone } }]...)
}

module "machines" {
  source      = "../machines"
  plan        = var.plan
  ssh_keys    = var.ssh_keys
  data_device = { relay = "/dev/vdb", backend = "/dev/vdb", witness = "/dev/vdb" }
}

data "openstack_networking_network_v2" "external" {
  name     = var.external_network
  external = true
}

# One network for each zone, so that nothing goes from zone to zone but through the
# router.
resource "openstack_networking_network_v2" "zone" {
  for_each = local.subnets
  name     = "${local.cluster}-${replace(each.key, "/", "-")}"
}

resource "openstack_networking_subnet_v2" "zone" {
  for_each   = local.subnets
  name       = "${local.cluster}-${replace(each.key, "/", "-")}"
  network_id = openstack_networking_network_v2.zone[each.key].id
  cidr       = each.value.cidr
  gateway_ip = each.value.gateway
  ip_version = 4
}

resource "openstack_networking_router_v2" "cluster" {
  name                = local.cluster
  external_network_id = data.openstack_networking_network_v2.external.id
}

resource "openstack_networking_router_interface_v2" "zone" {
  for_each  = local.subnets
  router_id = openstack_networking_router_v2.cluster.id
  subnet_id = openstack_networking_subnet_v2.zone[each.key].id
}

resource "openstack_networking_secgroup_v2" "tier" {
  for_each             = toset(["relay", "backend", "witness"])
  name                 = "${local.cluster}-${each.key}"
  description          = "Postern ${local.cluster}: ${each.key}"
  delete_default_rules = true
}

resource "openstack_networking_secgroup_rule_v2" "matrix" {
  for_each          = merge([for direction in ["in", "out"] : { for k, r in module.machines.security[direction] : "${direction} ${k}" => merge(r, { direction = direction }) }]...)
  security_group_id = openstack_networking_secgroup_v2.tier[each.value.tier].id
  description       = each.value.id
  direction         = each.value.direction == "in" ? "ingress" : "egress"
  ethertype         = "IPv4"
  protocol          = each.value.protocol
  port_range_min    = each.value.port
  port_range_max    = each.value.port
  remote_ip_prefix  = each.value.cidr
  remote_group_id   = each.value.peer == null ? null : openstack_networking_secgroup_v2.tier[each.value.peer].id
}

resource "openstack_networking_port_v2" "node" {
  for_each           = local.nodes
  name               = each.key
  network_id         = openstack_networking_network_v2.zone["${each.value.site}/${each.value.zone}"].id
  security_group_ids = [openstack_networking_secgroup_v2.tier[each.value.tier].id]

  fixed_ip {
    subnet_id  = openstack_networking_subnet_v2.zone["${each.value.site}/${each.value.zone}"].id
    ip_address = each.value.address
  }
}

resource "openstack_compute_servergroup_v2" "tier" {
  for_each = toset([for n in values(local.nodes) : "${n.tier}-${n.site}"])
  name     = "${local.cluster}-${each.key}"
  policies = ["anti-affinity"]
}

# Versions are changed by postern upgrade, node by node, and never by a new server:
# what would replace one is ignored.
resource "openstack_compute_instance_v2" "node" {
  for_each            = local.nodes
  name                = each.key
  flavor_name         = var.flavors[each.value.tier]
  availability_zone   = each.value.site
  user_data           = module.machines.user_data[each.key]
  config_drive        = true
  stop_before_destroy = true

  block_device {
    uuid                  = var.images[each.value.tier]
    source_type           = "image"
    destination_type      = "local"
    boot_index            = 0
    delete_on_termination = true
  }

  block_device {
    source_type           = "blank"
    destination_type      = "volume"
    volume_size           = var.disks[each.value.tier].size
    volume_type           = var.disks[each.value.tier].type
    boot_index            = -1
    delete_on_termination = false
  }

  network {
    port = openstack_networking_port_v2.node[each.key].id
  }

  scheduler_hints {
    group = openstack_compute_servergroup_v2.tier["${each.value.tier}-${each.value.site}"].id
  }

  metadata = {
    cluster = local.cluster
    tier    = each.value.tier
    pairs   = join(" ", each.value.groups)
  }

  lifecycle {
    ignore_changes = [user_data, block_device]
  }
}

resource "openstack_networking_floatingip_associate_v2" "relay" {
  for_each    = var.public_addresses
  floating_ip = each.value
  port_id     = openstack_networking_port_v2.node[each.key].id
  depends_on  = [openstack_networking_router_interface_v2.zone]
}

# One record set holds all values of a name and a type.
resource "openstack_dns_recordset_v2" "mail" {
  for_each = var.dns_zone_id == "" ? {} : { for r in var.plan.dns.records : "${r.name} ${r.type}" => r.value... }
  zone_id  = var.dns_zone_id
  name     = "${split(" ", each.key)[0]}."
  type     = split(" ", each.key)[1]
  ttl      = var.plan.dns.ttl
  records  = [for v in each.value : split(" ", each.key)[1] == "TXT" ? join(" ", [for part in regexall(".{1,250}", v) : "\"${part}\""]) : v]
}
