# Every node with its address, its services and its ports. An address depends on the
# number of the node only, so that growing a cluster moves none.
locals {
  zones = { for s in var.sites : s.name => {
    dmz  = cidrsubnet(s.cidr, 24 - tonumber(split("/", s.cidr)[1]), 1)
    data = cidrsubnet(s.cidr, 24 - tonumber(split("/", s.cidr)[1]), 2)
    mgmt = cidrsubnet(s.cidr, 24 - tonumber(split("/", s.cidr)[1]), 3)
  } }
  p   = var.ports
  ssh = var.ssh_port == 0 ? {} : { ssh = [var.ssh_port] }

  # The zone that relays answer for: one or none.
  dns_zones = var.dns_zone == null ? [] : [var.dns_zone]

  default_roles = lookup(var.relay_roles, "default", ["mx", "submit", "proxy", "outbound"])
  relay_nodes = { for i, r in local.relay_spots : r.name => merge(r, {
    tier    = "relay"
    zone    = "dmz"
    address = local.given ? try(var.hosts[r.host].address, "") : try(cidrhost(local.zones[r.site].dmz, 11 + i), "")
    roles   = lookup(var.relay_roles, r.name, local.default_roles)
    groups  = []
    services = merge(
      contains(lookup(var.relay_roles, r.name, local.default_roles), "mx") ? { smtp = [local.p.smtp] } : {},
      contains(lookup(var.relay_roles, r.name, local.default_roles), "submit") ? { submission = [local.p.submission], submissions = [local.p.submissions] } : {},
      contains(lookup(var.relay_roles, r.name, local.default_roles), "proxy") ? { imap = [local.p.imap], imaps = [local.p.imaps], pop3 = [local.p.pop3], pop3s = [local.p.pop3s] } : {},
    { gossip = [local.p.gossip], admin = [local.p.admin], metrics = [local.p.metrics] }, length(local.dns_zones) == 0 ? {} : { dns = [local.p.dns] }, local.ssh)
  }) }

  # Data replicas, by the machine that holds them.
  replica_hosts = local.given ? sort(distinct([for k, p in local.placed : p.host if p.member != "witness"])) : [for x in flatten([for pair in local.pair_names : ["${pair}-a", "${pair}-b"]]) : x]
  backend_nodes = { for i, h in local.replica_hosts : (local.given ? "${h}-store" : h) => {
    name           = local.given ? "${h}-store" : h
    tier           = "backend"
    zone           = "data"
    host           = h
    site           = try([for p in values(local.placed) : p.site if p.host == h && p.member != "witness"][0], "")
    failure_domain = try([for p in values(local.placed) : p.failure_domain if p.host == h && p.member != "witness"][0], "")
    address        = local.given ? try(var.hosts[h].address, "") : try(cidrhost(local.zones[[for p in values(local.placed) : p.site if p.host == h][0]].data, 10 + i), "")
    roles          = []
    groups         = [for pair in local.pair_names : pair if contains([for m in ["a", "b"] : local.placed["${pair}/${m}"].host], h)]
    services = merge(local.ssh, {
      lmtp      = [for k, pair in [for pair in local.pair_names : pair if contains([for m in ["a", "b"] : local.placed["${pair}/${m}"].host], h)] : local.p.lmtp + k]
      pair_imap = [for k, pair in [for pair in local.pair_names : pair if contains([for m in ["a", "b"] : local.placed["${pair}/${m}"].host], h)] : local.p.pair_imap + k]
      pair_pop3 = [for k, pair in [for pair in local.pair_names : pair if contains([for m in ["a", "b"] : local.placed["${pair}/${m}"].host], h)] : local.p.pair_pop3 + k]
      raft      = [local.p.raft]
      gossip    = [local.p.gossip]
      admin     = [local.p.admin]
      metrics   = [local.p.metrics + 1]
    })
  } }

  # A witness beside replicas of other pairs has the ports after theirs.
  beside = local.given ? 1 : 0
  witness_nodes = { for x in local.witness_places : local.witness_name[x] => {
    name           = local.witness_name[x]
    tier           = "witness"
    zone           = "data"
    host           = local.given ? x : local.witness_name[x]
    site           = try([for p in values(local.placed) : p.site if p.host == x && p.member == "witness"][0], "")
    failure_domain = try([for p in values(local.placed) : p.failure_domain if p.host == x && p.member == "witness"][0], "")
    address        = local.given ? try(var.hosts[x].address, "") : try(cidrhost(local.zones[split("/", x)[0]].data, 200 + index(local.all_domains, x)), "")
    roles          = []
    groups         = [for pair in local.pair_names : pair if local.placed["${pair}/witness"].host == x]
    services = merge(local.ssh, {
      raft    = [local.p.raft + local.beside]
      gossip  = [local.p.gossip + local.beside]
      admin   = [local.p.admin + local.beside]
      metrics = [local.p.metrics + 2]
    })
  } }

  nodes = merge(local.relay_nodes, local.backend_nodes, local.witness_nodes)

  # The name of the node that holds a member of a pair.
  member_node = { for k, p in local.placed : k => p.member == "witness" ? local.witness_name[p.host] : (local.given ? "${p.host}-store" : p.host) }
  members = { for pair in local.pair_names : pair => [for m in ["a", "b", "witness"] : {
    node    = local.member_node["${pair}/${m}"]
    id      = substr(sha256(join("/", ["postern replica", var.cluster, var.seed, pair, local.member_node["${pair}/${m}"], lookup(var.generations, local.member_node["${pair}/${m}"], 0)])), 0, 16)
    witness = m == "witness"
  }] }

  directory_addresses = length(var.directory.addresses) > 0 ? var.directory.addresses : [cidrhost(local.zones[local.site_names[0]].data, 5)]
  directory_urls      = length(var.directory.urls) > 0 ? var.directory.urls : [for a in local.directory_addresses : var.directory.ports[0] == 636 ? "ldaps://${a}:636" : "ldap://${a}:${var.directory.ports[0]}"]
}
