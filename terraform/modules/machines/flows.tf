# The ports matrix as rules of security groups, one group for each tier. The other
# side of a rule is a tier (peer) or a network (cidr).
locals {
  tiers = ["relay", "backend", "witness"]
  flows = flatten([for r in var.plan.rules : [for proto in r.protocols : [for port in r.ports : { id = r.id, from = r.from, to = r.to, protocol = proto, port = port }]]])

  networks = merge(
    { for g, addresses in var.plan.groups : g => [for a in addresses : strcontains(a, "/") ? a : "${a}/32"] if !contains(concat(local.tiers, ["inside"]), g) },
  { internet = ["0.0.0.0/0"] })

  sides = {
    in  = [for f in local.flows : { tier = f.to, other = f.from, flow = f } if contains(local.tiers, f.to)]
    out = [for f in local.flows : { tier = f.from, other = f.to, flow = f } if contains(local.tiers, f.from)]
  }

  security = { for direction, list in local.sides : direction => merge([for s in list : {
    for other in(contains(local.tiers, s.other) ? [s.other] : local.networks[s.other]) : "${s.tier} ${s.flow.protocol}/${s.flow.port} ${other}" => {
      tier     = s.tier
      id       = s.flow.id
      protocol = s.flow.protocol
      port     = s.flow.port
      peer     = contains(local.tiers, s.other) ? s.other : null
      cidr     = contains(local.tiers, s.other) ? null : other
    } }]...)
  }
}
