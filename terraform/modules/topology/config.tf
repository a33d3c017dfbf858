# The configuration file of every node, as the daemons read it. It holds no secret:
# certificates, keys and passwords are files below the node's directory.
locals {
  dirs = { for name, n in local.nodes : name => replace(replace(var.state_dir, "{tier}", n.tier), "{node}", name) }

  # Whom a node asks first. Only the first of each kind, so that a cluster that grows
  # does not change every file.
  seeds = concat(
    [for i in range(min(3, var.relays)) : "relay${i + 1}"],
  flatten([for pair in slice(local.pair_names, 0, min(2, var.pairs)) : local.members[pair][*].node]))

  hostnames = { for name, n in local.nodes : name => "${name}.${var.domain}" }

  common = { for name, n in local.nodes : name => {
    node    = name
    cluster = var.cluster
    dir     = local.dirs[name]
    gossip = {
      listen = "${n.address}:${n.services.gossip[0]}"
      join   = [for s in distinct(local.seeds) : "${local.nodes[s].address}:${local.nodes[s].services.gossip[0]}" if s != name]
    }
    admin   = { listen = "${n.address}:${n.services.admin[0]}" }
    metrics = { listen = "${n.address}:${n.services.metrics[0]}" }
  } }

  relay_files = { for name, n in local.relay_nodes : name => merge(local.common[name], {
    hostname   = local.hostnames[name]
    roles      = n.roles
    smtp       = { listen = [for p in lookup(n.services, "smtp", []) : ":${p}"] }
    submission = { listen = [for p in lookup(n.services, "submission", []) : ":${p}"], tls_listen = [for p in lookup(n.services, "submissions", []) : ":${p}"] }
    imap       = { listen = [for p in lookup(n.services, "imap", []) : ":${p}"], tls_listen = [for p in lookup(n.services, "imaps", []) : ":${p}"] }
    pop3       = { listen = [for p in lookup(n.services, "pop3", []) : ":${p}"], tls_listen = [for p in lookup(n.services, "pop3s", []) : ":${p}"] }
    directory = merge(
      { urls = local.directory_urls, base = var.directory.base, default_domain = var.domain, schema = var.directory.schema },
      var.directory.bind_dn == "" ? {} : { bind_dn = var.directory.bind_dn, password_file = var.directory.password_file },
      var.directory.start_tls ? { start_tls = true } : {},
    var.directory.ca == "" ? {} : { ca = var.directory.ca })
    dns = merge({ servers = [for a in var.resolvers : "${a}:53"] }, [for z in local.dns_zones : { serve = merge(
      { listen = [":${n.services.dns[0]}"], zone = z.name, names = z.names, ttl = "${z.ttl}s" }, z.contact == "" ? {} : { contact = z.contact })
    }]...)
    pairs = flatten([for pair in local.pair_names : [for m in local.members[pair] : {
      pair = pair
      node = m.node
      lmtp = "${local.nodes[m.node].address}:${local.nodes[m.node].services.lmtp[index(local.nodes[m.node].groups, pair)]}"
      imap = "${local.nodes[m.node].address}:${local.nodes[m.node].services.pair_imap[index(local.nodes[m.node].groups, pair)]}"
      pop3 = "${local.nodes[m.node].address}:${local.nodes[m.node].services.pair_pop3[index(local.nodes[m.node].groups, pair)]}"
    } if !m.witness]])
  }, contains(keys(local.public6), name) || length(local.dns_zones) > 0 ? { public = { addresses = compact([local.public[name], lookup(local.public6, name, "")]) } } : {}) }

  store_files = { for name, n in merge(local.backend_nodes, local.witness_nodes) : name => merge(local.common[name], {
    raft = { listen = "${n.address}:${n.services.raft[0]}" }
    groups = [for k, pair in n.groups : merge({
      pair    = pair
      members = [for m in local.members[pair] : merge({ node = m.node, id = m.id, addr = "${local.nodes[m.node].address}:${local.nodes[m.node].services.raft[0]}" }, m.witness ? { witness = true } : {})]
      }, n.tier == "witness" ? {} : { serve = {
        lmtp = "${n.address}:${n.services.lmtp[k]}"
        imap = "${n.address}:${n.services.pair_imap[k]}"
        pop3 = "${n.address}:${n.services.pair_pop3[k]}"
    } })]
  }) }

  # The plan's options under the operator's.
  files = { for name, c in merge(local.relay_files, local.store_files) : name => yamlencode(merge(c, {
    for section, v in lookup(var.options, local.nodes[name].tier, {}) : section => try(merge(c[section], v), v)
  })) }

  certificates = { for name, n in local.nodes : name => {
    node = {
      roles     = n.tier == "relay" ? concat(length(setintersection(n.roles, ["mx", "submit", "outbound"])) > 0 ? ["relay-mx"] : [], contains(n.roles, "proxy") ? ["relay-proxy"] : []) : [n.tier]
      dns_names = []
      addresses = []
    }
    public = {
      dns_names = n.tier == "relay" ? distinct(concat([local.hostnames[name], "mail.${var.domain}"], flatten([for z in local.dns_zones : concat([z.name, "${name}.${z.name}"], z.names)]))) : []
      addresses = n.tier == "relay" ? distinct(concat([n.address, lookup(var.public_addresses, name, n.address)], [for x, a in local.public6 : a if x == name])) : []
    }
  } }
}
