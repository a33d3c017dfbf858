# A VPC with the zones of the plan as subnets and an instance for every node.
locals {
  cluster = var.plan.cluster.name
  nodes   = var.plan.nodes
  subnets = merge([for site, z in var.plan.zones : { for zone, cidr in z.networks : "${site}/${zone}" => { site = site, zone = zone, cidr = cidr } }]...)
}

module "machines" {
  source      = "../machines"
  plan        = var.plan
  ssh_keys    = var.ssh_keys
  data_device = { relay = "/dev/nvme1n1", backend = "/dev/nvme1n1", witness = "/dev/nvme1n1" }
}

resource "aws_vpc" "cluster" {
  cidr_block           = var.cidr
  enable_dns_hostnames = true
  tags                 = { Name = local.cluster, cluster = local.cluster }
}

resource "aws_internet_gateway" "outside" {
  vpc_id = aws_vpc.cluster.id
  tags   = { Name = local.cluster, cluster = local.cluster }
}

resource "aws_subnet" "zone" {
  for_each          = local.subnets
  vpc_id            = aws_vpc.cluster.id
  availability_zone = each.value.site
  cidr_block        = each.value.cidr
  tags              = { Name = "${local.cluster}-${each.key}", cluster = local.cluster, zone = each.value.zone }
}

# Only the dmz has a way to the Internet. How operators come to mgmt (VPN, peering)
# is theirs to add.
resource "aws_route_table" "dmz" {
  vpc_id = aws_vpc.cluster.id
  tags   = { Name = "${local.cluster}-dmz", cluster = local.cluster }

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.outside.id
  }
}

resource "aws_route_table_association" "dmz" {
  for_each       = { for k, s in local.subnets : k => s if s.zone == "dmz" }
  subnet_id      = aws_subnet.zone[each.key].id
  route_table_id = aws_route_table.dmz.id
}

resource "aws_placement_group" "tier" {
  for_each = toset([for n in values(local.nodes) : "${n.tier}-${n.site}"])
  name     = "${local.cluster}-${each.key}"
  strategy = "partition"
}

# Versions are changed by postern upgrade, node by node, and never by a new instance:
# what would replace one is ignored.
resource "aws_instance" "node" {
  for_each                = local.nodes
  ami                     = var.images[each.value.tier]
  instance_type           = var.instance_types[each.value.tier]
  subnet_id               = aws_subnet.zone["${each.value.site}/${each.value.zone}"].id
  private_ip              = each.value.address
  vpc_security_group_ids  = [aws_security_group.tier[each.value.tier].id]
  placement_group         = aws_placement_group.tier["${each.value.tier}-${each.value.site}"].name
  user_data_base64        = base64gzip(module.machines.user_data[each.key])
  disable_api_termination = var.protect && each.value.tier != "relay"
  ebs_optimized           = true

  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }

  root_block_device {
    volume_type = "gp3"
    encrypted   = true
  }

  ebs_block_device {
    device_name           = "/dev/sdf"
    volume_type           = "gp3"
    volume_size           = var.disks[each.value.tier].size
    iops                  = var.disks[each.value.tier].iops
    throughput            = var.disks[each.value.tier].throughput
    encrypted             = true
    delete_on_termination = false
  }

  tags = {
    Name    = each.key
    cluster = local.cluster
    tier    = each.value.tier
    pairs   = join(" ", each.value.groups)
  }

  lifecycle {
    ignore_changes = [ami, user_data_base64, ebs_block_device]
  }
}

resource "aws_eip_association" "relay" {
  for_each      = var.public_addresses
  allocation_id = each.value
  instance_id   = aws_instance.node[each.key].id
}

# One record set holds all values of a name and a type.
resource "aws_route53_record" "mail" {
  for_each = var.zone_id == "" ? {} : { for r in var.plan.dns.records : "${r.name} ${r.type}" => r.value... }
  zone_id  = var.zone_id
  name     = split(" ", each.key)[0]
  type     = split(" ", each.key)[1]
  ttl      = var.plan.dns.ttl
  records  = each.value
}
