# Security groups from the ports matrix, one for each tier.
resource "aws_security_group" "tier" {
  for_each    = toset(["relay", "backend", "witness"])
  name        = "${local.cluster}-${each.key}"
  description = "Postern ${local.cluster}: ${each.key}"
  vpc_id      = aws_vpc.cluster.id
  tags        = { Name = "${local.cluster}-${each.key}", cluster = local.cluster }
}

resource "aws_vpc_security_group_ingress_rule" "matrix" {
  for_each                     = module.machines.security.in
  security_group_id            = aws_security_group.tier[each.value.tier].id
  description                  = each.value.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  cidr_ipv4                    = each.value.cidr
  referenced_security_group_id = each.value.peer == null ? null : aws_security_group.tier[each.value.peer].id
}

resource "aws_vpc_security_group_egress_rule" "matrix" {
  for_each                     = module.machines.security.out
  security_group_id            = aws_security_group.tier[each.value.tier].id
  description                  = each.value.id
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  cidr_ipv4                    = each.value.cidr
  referenced_security_group_id = each.value.peer == null ? null : aws_security_group.tier[each.value.peer].id
}
