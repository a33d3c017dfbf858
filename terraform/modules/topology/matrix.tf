# Who may talk to whom: the only place where that is said. Firewalls, security groups
# and the probe are made from it. What no row allows is refused.
#
#   from, to  groups: a tier, internet, management, directory, resolver or time
#   services  of the nodes of to; ports, where to is no tier
#   within    pair: only members of the same pair
#   secret    what a peer that gets through has to show besides: a certificate of
#             that role, the key of gossip, a password
locals {
  tiers = ["relay", "backend", "witness"]
  users = ["smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s"]

  matrix = [
    { id = "mx", from = ["internet"], to = ["relay"], protocols = ["tcp"], services = ["smtp"], purpose = "mail from the Internet" },
    { id = "submission", from = ["internet"], to = ["relay"], protocols = ["tcp"], services = ["submission", "submissions"], secret = "password", purpose = "mail from users" },
    { id = "access", from = ["internet"], to = ["relay"], protocols = ["tcp"], services = ["imap", "imaps", "pop3", "pop3s"], secret = "password", purpose = "users reach their mail" },
    { id = "zone", from = ["internet"], to = ["relay"], protocols = ["tcp", "udp"], services = ["dns"], purpose = "the zone that relays answer for, where dns_zone is given" },
    { id = "outbound", from = ["relay"], to = ["internet"], protocols = ["tcp"], ports = [25], purpose = "mail to the Internet" },
    { id = "dns", from = ["relay"], to = ["internet"], protocols = ["tcp", "udp"], ports = [53], purpose = "DNS" },
    { id = "resolver", from = ["relay"], to = ["resolver"], protocols = ["tcp", "udp"], ports = [53], purpose = "DNS" },
    { id = "directory", from = ["relay"], to = ["directory"], protocols = ["tcp"], ports = var.directory.ports, purpose = "LDAP" },
    { id = "lmtp", from = ["relay"], to = ["backend"], protocols = ["tcp"], services = ["lmtp"], secret = "relay-mx", purpose = "delivery" },
    { id = "proxy", from = ["relay"], to = ["backend"], protocols = ["tcp"], services = ["pair_imap", "pair_pop3"], secret = "relay-proxy", purpose = "proxied access" },
    { id = "gossip", from = local.tiers, to = local.tiers, protocols = ["tcp", "udp"], services = ["gossip"], secret = "gossip", purpose = "membership" },
    { id = "raft", from = ["backend"], to = ["backend", "witness"], protocols = ["tcp"], services = ["raft"], within = "pair", secret = "backend", purpose = "raft, re-seeding" },
    { id = "raft-witness", from = ["witness"], to = ["backend"], protocols = ["tcp"], services = ["raft"], within = "pair", secret = "witness", purpose = "raft" },
    { id = "admin", from = ["management"], to = local.tiers, protocols = ["tcp"], services = ["admin"], secret = "admin", purpose = "admin API" },
    { id = "metrics", from = ["management"], to = local.tiers, protocols = ["tcp"], services = ["metrics"], purpose = "metrics, health" },
    { id = "ssh", from = ["management"], to = local.tiers, protocols = ["tcp"], services = ["ssh"], secret = "key", purpose = "operators at the machine, where ssh_port is given" },
    { id = "time", from = local.tiers, to = ["time"], protocols = ["udp"], ports = [123], purpose = "NTP, where time_servers are given" },
    { id = "operators", from = ["management"], to = ["relay"], protocols = ["tcp"], services = local.users, purpose = "operators are users too, and an upgrade greets what it has replaced" },
  ]

  # What a tier may be reached at, over all its nodes.
  tier_ports = { for tier in local.tiers : tier => { for s in distinct(flatten([for n in values(local.nodes) : keys(n.services) if n.tier == tier])) :
  s => distinct(flatten([for n in values(local.nodes) : lookup(n.services, s, []) if n.tier == tier])) } }

  # One rule for each pair of groups, with its ports; what nobody has a service for is
  # left out.
  rules = [for r in flatten([for m in local.matrix : [for x in setproduct(m.from, m.to) : {
    id        = m.id
    from      = x[0]
    to        = x[1]
    protocols = m.protocols
    services  = lookup(m, "services", [])
    ports     = distinct(concat([for p in lookup(m, "ports", []) : tonumber(p)], flatten([for s in lookup(m, "services", []) : lookup(lookup(local.tier_ports, x[1], {}), s, [])])))
    within    = lookup(m, "within", "")
    secret    = lookup(m, "secret", "")
    purpose   = m.purpose
  }]]) : r if length(r.ports) > 0 && (r.to == "internet" || length(lookup(local.addresses, r.to, [])) > 0)]

  addresses = merge(
    { for tier in local.tiers : tier => [for n in values(local.nodes) : n.address if n.tier == tier] },
    {
      management = concat([for s in local.site_names : local.zones[s].mgmt], var.management)
      directory  = local.directory_addresses
      resolver   = var.resolvers
      time       = var.time_servers
    },
  )
}
