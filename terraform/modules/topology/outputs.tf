output "cluster" {
  description = "Name, mail domain, seed and versions of the cluster."
  value       = { name = var.cluster, domain = var.domain, versions = var.versions, operator_dir = var.operator_dir }

  precondition {
    condition     = alltrue([for r in keys(var.relay_roles) : r == "default" || contains(keys(local.relay_nodes), r)])
    error_message = "relay_roles: there is no relay of that name."
  }
  precondition {
    condition     = length(local.with.mx) > 0
    error_message = "relay_roles: no relay takes mail from the Internet (mx)."
  }
  precondition {
    condition     = length(local.dns_zones) == 0 || length(distinct([for n in values(local.relay_nodes) : join(" ", sort(n.roles))])) == 1
    error_message = "dns_zone: it names relays without asking for what; all of them want the same roles."
  }
  precondition {
    condition     = alltrue([for r in keys(var.public_addresses) : contains(keys(local.relay_nodes), r)])
    error_message = "public_addresses: there is no relay of that name."
  }
  precondition {
    condition     = alltrue([for r in keys(var.public_addresses6) : contains(keys(local.relay_nodes), r)])
    error_message = "public_addresses6: there is no relay of that name."
  }
  precondition {
    condition     = alltrue([for n in keys(var.generations) : contains(keys(merge(local.backend_nodes, local.witness_nodes)), n)])
    error_message = "generations: there is no backend or witness of that name."
  }
  precondition {
    condition     = var.witness_site == "" || contains(local.site_names, var.witness_site)
    error_message = "witness_site: there is no site of that name."
  }
}

output "nodes" {
  description = "Every node: tier, zone, site, failure_domain, host, address, address6 (of a relay, or empty), hostname, version, dir (of its state), roles (of a relay), groups (pairs of which it holds a member), services (ports by name)."
  value = { for name, n in local.nodes : name => {
    tier     = n.tier, zone = n.zone, site = n.site, failure_domain = n.failure_domain, host = n.host, address = n.address
    address6 = lookup(local.public6, name, "")
    hostname = local.hostnames[name], version = var.versions[n.tier], dir = local.dirs[name]
    roles    = n.roles, groups = n.groups, services = n.services
  } }

  precondition {
    condition     = !local.given || length(local.relay_hosts) >= var.relays
    error_message = "hosts: there are fewer machines in dmz than relays; two relays on one gain nothing."
  }
  precondition {
    condition     = alltrue([for h in values(var.hosts) : contains(local.site_names, h.site) && contains(try(local.site[h.site].failure_domains, []), h.failure_domain)])
    error_message = "hosts: a machine is in a site or a failure domain that sites does not name."
  }
  precondition {
    condition     = alltrue([for h in values(var.hosts) : try(cidrhost("${h.address}/24", 0) == cidrhost(local.zones[h.site][h.zone], 0), false)])
    error_message = "hosts: the address of a machine is outside its zone."
  }
  precondition {
    condition     = alltrue([for n in values(local.backend_nodes) : length(n.groups) <= 10])
    error_message = "hosts: a machine would hold replicas of more than ten pairs."
  }
  precondition {
    condition     = length(distinct([for name, n in local.nodes : "${n.host}:${local.dirs[name]}"])) == length(local.nodes)
    error_message = "state_dir: two nodes of a machine would have the same directory. Put {tier} or {node} in it."
  }
}

output "pairs" {
  description = "Every pair: its members (a, b, witness) with node, replica id, host, site and failure domain, and the sites whose loss it survives."
  value = { for pair in local.pair_names : pair => {
    members = { for i, m in ["a", "b", "witness"] : m => {
      node = local.members[pair][i].node, id = local.members[pair][i].id, host = local.nodes[local.members[pair][i].node].host
      site = local.placed["${pair}/${m}"].site, failure_domain = local.placed["${pair}/${m}"].failure_domain
    } }
    survives = [for s in local.site_names : s if length([for m in ["a", "b", "witness"] : m if local.placed["${pair}/${m}"].site == s]) <= 1]
  } }

  precondition {
    condition     = alltrue([for pair in local.pair_names : length(distinct([for m in ["a", "b", "witness"] : local.placed["${pair}/${m}"].host])) == 3 && !contains([for m in ["a", "b", "witness"] : local.placed["${pair}/${m}"].host], "")]) || !local.given
    error_message = "hosts, placement: two members of a pair would stand on one machine, or a machine is missing: a pair needs three in data."
  }
  precondition {
    condition     = alltrue([for k, p in local.placed : !local.given || try(var.hosts[p.host].zone == "data", false)])
    error_message = "placement: members of pairs stand on machines of the data zone that hosts names."
  }
  precondition {
    condition     = alltrue([for p in keys(var.placement) : contains(local.pair_names, p)]) && (local.given || length(var.placement) == 0)
    error_message = "placement: there is no pair of that name, or no hosts are given."
  }
  precondition {
    condition     = length(local.crowded) == 0 || sum([for d in values(local.domains) : length(d)]) < 3
    error_message = "witness_site: its failure domains all hold a replica of the same pair. Name more of them there, or leave witness_site empty."
  }
}

output "zones" {
  description = "Networks of the zones dmz, data and mgmt, by site, with the first address of each as its gateway. inner is the address of the inner firewall in the dmz."
  value = { for s in var.sites : s.name => {
    cidr            = s.cidr
    failure_domains = s.failure_domains
    networks        = local.zones[s.name]
    gateways        = { for z, c in local.zones[s.name] : z => cidrhost(c, 1) }
    inner           = cidrhost(local.zones[s.name].dmz, 2)
    station         = cidrhost(local.zones[s.name].mgmt, 10)
  } }
}

output "rules" {
  description = "The ports matrix, a row for each pair of groups: id, from, to, protocols, ports, within (pair: members of the same pair only), secret, purpose. What no row allows is refused."
  value       = [for r in local.rules : { id = r.id, from = r.from, to = r.to, protocols = r.protocols, ports = r.ports, within = r.within, secret = r.secret, purpose = r.purpose }]
}

output "groups" {
  description = "Addresses of the groups of the matrix. The group internet is everything that inside does not hold."
  value       = merge(local.addresses, { inside = local.inside })
}

output "firewalls" {
  description = "nftables from the matrix: machine, by host, for the machines themselves; zone.outer between Internet and dmz; zone.inner between dmz, data and mgmt."
  value       = { machine = local.machine_nft, zone = local.zone_nft }
}

output "configs" {
  description = "Configuration file of every node, YAML. It holds no secret."
  value       = local.files
}

output "certificates" {
  description = "Certificates of every node: node, with its roles, and for relays public, with names and addresses. postern pki issue makes them."
  value       = local.certificates
}

output "dns" {
  description = "Records of the mail domain (name, type, value) and the same as lines of a zone file."
  value       = { ttl = var.dns_ttl, records = local.dns_records, zone_file = "${join("\n", local.zone_lines)}\n" }
}

output "directory" {
  description = "LDAP servers: addresses, ports, urls, base."
  value       = { addresses = local.directory_addresses, ports = var.directory.ports, urls = local.directory_urls, base = var.directory.base }
}

output "tool" {
  description = "How the tool reaches the cluster: arguments, for the operators' machine, and file, cluster.json for a machine that all nodes run on, without people."
  value = {
    arguments = ["--node", join(",", [for n in values(local.nodes) : "${n.address}:${n.services.admin[0]}"]),
    "--cert", "${var.operator_dir}/admin.pem", "--key", "${var.operator_dir}/admin-key.pem", "--ca", "${var.operator_dir}/ca.pem"]
    file = {
      version = 1
      domain  = var.domain
      ca      = "${var.operator_dir}/ca.pem"
      admin   = { cert = "${var.operator_dir}/admin.pem", key = "${var.operator_dir}/admin-key.pem" }
      relays = [for name, n in local.relay_nodes : merge({ for s in ["smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s"] : s => try("${n.address}:${n.services[s][0]}", "") }, {
        name      = name
        pid       = 0
        admin     = "${local.dirs[name]}/admin.sock"
        admin_tls = "${n.address}:${n.services.admin[0]}"
        metrics   = "${n.address}:${n.services.metrics[0]}"
        gossip    = "${n.address}:${n.services.gossip[0]}"
        dir       = local.dirs[name]
      })]
      pairs = [for pair in local.pair_names : { name = pair, nodes = [for m in local.members[pair] : merge(
        {
          name      = m.node
          pid       = 0
          role      = m.witness ? "witness" : "data"
          lmtp      = ""
          imap      = ""
          raft      = "${local.nodes[m.node].address}:${local.nodes[m.node].services.raft[0]}"
          admin     = "${local.dirs[m.node]}/admin.sock"
          admin_tls = "${local.nodes[m.node].address}:${local.nodes[m.node].services.admin[0]}"
          metrics   = "${local.nodes[m.node].address}:${local.nodes[m.node].services.metrics[0]}"
          gossip    = "${local.nodes[m.node].address}:${local.nodes[m.node].services.gossip[0]}"
          dir       = local.dirs[m.node]
        },
        m.witness ? {} : {
          lmtp_tls = "${local.nodes[m.node].address}:${local.nodes[m.node].services.lmtp[index(local.nodes[m.node].groups, pair)]}"
          imap_tls = "${local.nodes[m.node].address}:${local.nodes[m.node].services.pair_imap[index(local.nodes[m.node].groups, pair)]}"
          pop3_tls = "${local.nodes[m.node].address}:${local.nodes[m.node].services.pair_pop3[index(local.nodes[m.node].groups, pair)]}"
      })] }]
      directory = { url = local.directory_urls[0], base = var.directory.base, bind_dn = "", password = "" }
      dns       = length(var.resolvers) > 0 ? "${var.resolvers[0]}:53" : ""
      users     = []
      lists     = []
    }
  }
}

output "probe" {
  description = "The matrix for a probe that compares the network with it: groups, nodes and rules."
  value = {
    version = 1
    cluster = var.cluster
    inside  = local.inside
    groups  = { for g in ["management", "directory", "resolver", "time"] : g => local.addresses[g] }
    nodes   = [for name, n in local.nodes : { name = name, tier = n.tier, zone = n.zone, address = n.address, pairs = n.groups, services = n.services }]
    rules   = [for r in local.rules : { id = r.id, from = r.from, to = r.to, protocols = r.protocols, ports = r.ports, services = r.services, within = r.within, secret = r.secret }]
  }
}
