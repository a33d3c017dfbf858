# nftables of the machines and of the firewalls between the zones, from the matrix.
locals {
  inside = distinct(concat(var.sites[*].cidr, var.management))

  # The peers of a node by rule: the group, or for pairs those of the same pair.
  peers = { for name, n in local.nodes : name => { for k, r in local.rules : k => {
    sources = r.to != n.tier ? [] : r.from == "internet" ? ["!"] : r.within == "pair" ? [
    for x in values(local.nodes) : x.address if x.tier == r.from && x.name != name && length(setintersection(x.groups, n.groups)) > 0] : [for a in local.addresses[r.from] : a if a != n.address || local.given]
    targets = r.from != n.tier ? [] : r.to == "internet" ? ["!"] : r.within == "pair" ? [
    for x in values(local.nodes) : x.address if x.tier == r.to && x.name != name && length(setintersection(x.groups, n.groups)) > 0] : [for a in local.addresses[r.to] : a if a != n.address || local.given]
    in_ports = distinct(concat(flatten([for s in r.services : lookup(n.services, s, [])])))
  } } }

  # What a node is to the Internet: where nothing translates addresses, the public one.
  own = { for name, n in local.nodes : name => distinct([n.address, lookup(var.public_addresses, name, n.address)]) }

  # The Internet in IPv6 is what is global; only relays speak with it.
  internet6 = "2000::/3"
  machine_rules6 = { for h in local.machines : h => {
    in = flatten([for name, a in local.public6 : [for k, r in local.rules : [for proto in r.protocols :
      "ip6 saddr ${local.internet6} ip6 daddr ${a} ${proto} dport { ${join(", ", local.peers[name][k].in_ports)} } accept comment \"${r.id}\""
    ] if r.from == "internet" && r.to == "relay" && length(local.peers[name][k].in_ports) > 0] if local.nodes[name].host == h])
    out = flatten([for name, a in local.public6 : [for r in local.rules : [for proto in r.protocols :
      "ip6 saddr ${a} ip6 daddr ${local.internet6} ${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\""
    ] if r.from == "relay" && r.to == "internet"] if local.nodes[name].host == h])
  } }
  zone_rules6 = length(local.public6) == 0 ? [] : concat(
    flatten([for r in local.rules : [for proto in r.protocols :
      "ip6 saddr ${local.internet6} ip6 daddr { ${join(", ", values(local.public6))} } ${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\""
    ] if r.from == "internet" && r.to == "relay"]),
    flatten([for r in local.rules : [for proto in r.protocols :
      "ip6 saddr { ${join(", ", values(local.public6))} } ip6 daddr ${local.internet6} ${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\""
  ] if r.from == "relay" && r.to == "internet"]))

  # Rules of nft for one machine, which may hold more than one node.
  machines = distinct([for n in values(local.nodes) : n.host])
  machine_rules = { for h in local.machines : h => {
    in = distinct(flatten([for name, n in local.nodes : [for k, r in local.rules : [for proto in r.protocols :
      "${try(local.peers[name][k].sources[0], "") == "!" ? "ip saddr != { ${join(", ", local.inside)} } ip daddr ${length(local.own[name]) == 1 ? n.address : "{ ${join(", ", local.own[name])} }"}" : "ip saddr { ${join(", ", local.peers[name][k].sources)} } ip daddr ${n.address}"} ${proto} dport { ${join(", ", local.peers[name][k].in_ports)} } accept comment \"${r.id}\""
    ] if length(local.peers[name][k].sources) > 0 && length(local.peers[name][k].in_ports) > 0] if n.host == h]))
    out = distinct(flatten([for name, n in local.nodes : [for k, r in local.rules : [for proto in r.protocols :
      "${try(local.peers[name][k].targets[0], "") == "!" ? "ip saddr ${length(local.own[name]) == 1 ? n.address : "{ ${join(", ", local.own[name])} }"} ip daddr != { ${join(", ", local.inside)} }" : "ip saddr ${n.address} ip daddr { ${join(", ", local.peers[name][k].targets)} }"} ${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\""
    ] if length(local.peers[name][k].targets) > 0] if n.host == h]))
  } }

  machine_nft = { for h, rules in local.machine_rules : h => templatefile("${path.module}/machine.nft.tftpl", { in = concat(rules.in, local.machine_rules6[h].in), out = concat(rules.out, local.machine_rules6[h].out) }) }

  zone_rules = [for r in local.rules : {
    outer = r.from == "internet" || contains(["internet", "resolver", "time"], r.to)
    inner = r.from != "internet" && r.to != "internet"
    lines = [for proto in r.protocols : join(" ", [
      r.from == "internet" ? "ip saddr != { ${join(", ", local.inside)} }" : "ip saddr { ${join(", ", local.addresses[r.from])} }",
      r.to == "internet" ? "ip daddr != { ${join(", ", local.inside)} }" : "ip daddr { ${join(", ", local.addresses[r.to])} }",
      "${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\"",
    ])]
  } if(r.from == "internet" || length(lookup(local.addresses, r.from, [])) > 0) && (r.to == "internet" || length(lookup(local.addresses, r.to, [])) > 0)]

  zone_nft = {
    outer = templatefile("${path.module}/zone.nft.tftpl", { name = "outer", rules = concat(flatten([for r in local.zone_rules : r.lines if r.outer]), local.zone_rules6) })
    inner = templatefile("${path.module}/zone.nft.tftpl", { name = "inner", rules = flatten([for r in local.zone_rules : r.lines if r.inner]) })
  }
}
