# A whole cluster on this Linux host: relays in a DMZ, pairs with their witness behind
# an inner firewall, a directory, and a DNS on a network that stands for the Internet.
locals {
  internet  = "192.0.2.0/24"
  internet6 = var.ipv6 ? "2001:db8:0:1::/64" : ""
  dmz6      = var.ipv6 ? "2001:db8:0:2::/64" : ""
  resolver  = cidrhost(local.internet, 10)
  operator  = "${var.state_dir}/operator"
  site      = module.topology.zones["a"]
  directory = module.topology.directory.addresses[0]
  hosts = {
    internet   = { zone = "internet", address = local.resolver, address6 = var.ipv6 ? cidrhost(local.internet6, 10) : "" }
    directory  = { zone = "data", address = local.directory, address6 = "" }
    management = { zone = "mgmt", address = local.site.station, address6 = "" }
  }
  programs = { for v in distinct(values(var.versions)) : v => lookup(var.binaries, v, "${var.state_dir}/bin/${v}") }
  tool     = "${local.programs[var.versions.relay]}/postern"
  enter    = { for h in concat(keys(local.hosts), keys(module.topology.nodes)) : h => ["nsenter", "--net=/run/netns/${var.prefix}-${h}"] }
  tiers    = { for t in ["relay", "backend", "witness"] : t => sort([for name, n in module.topology.nodes : name if n.tier == t]) }
  ids      = { for name in keys(module.topology.nodes) : name => flatten([for p in values(module.topology.pairs) : [for m in values(p.members) : m.id if m.node == name]]) }
  people   = [for i in range(var.users) : format("u%04d", i + 1)]
  cluster = merge(module.topology.tool.file, {
    users = [for i, u in local.people : { login = u, password = "secret", address = "${u}@${var.domain}", pair = "pair${i % var.pairs + 1}" }]
  })
  # The same for drills, whose operator stands in mgmt.
  drills = {
    title       = var.domain
    ca          = "${local.operator}/ca.pem"
    server_name = "mail.${var.domain}"
    admin       = { cert = "${local.operator}/admin.pem", key = "${local.operator}/admin-key.pem", ca = "${local.operator}/ca.pem" }
    nodes = [for name, n in module.topology.nodes : merge(
      { name = name, role = n.tier == "backend" ? "data" : n.tier, admin = "${n.address}:${n.services.admin[0]}" },
    n.tier == "relay" ? { smtp = "${n.address}:${n.services.smtp[0]}", imaps = "${n.address}:${n.services.imaps[0]}" } : { pair = n.groups[0] })]
    users = [for u in local.cluster.users : { login = u.login, password_file = "${var.state_dir}/drill.password", address = u.address, pair = u.pair }]
    allow = ["transfer", "stop", "start", "drain", "undrain"]
    hooks = {
      stop  = "PREFIX=${var.prefix} STATE=${var.state_dir} exec sh ${module.zones.ground.script} stop \"$DRILL_NODE\""
      start = "PREFIX=${var.prefix} STATE=${var.state_dir} exec sh ${module.zones.ground.script} start \"$DRILL_NODE\" ${var.state_dir}/\"$DRILL_NODE\".bin --config ${var.state_dir}/\"$DRILL_NODE\".yaml"
    }
  }
  # The matrix, with the hosts that stand for its groups here.
  probe = merge(module.topology.probe, { hosts = { internet = [local.resolver], management = [local.site.station] } })
}

module "topology" {
  source       = "../../modules/topology"
  cluster      = "local"
  domain       = var.domain
  relays       = var.relays
  pairs        = var.pairs
  versions     = var.versions
  state_dir    = "${var.state_dir}/{node}"
  operator_dir = local.operator
  # The relays' own; the networks behind the inner firewall have none.
  public_addresses6 = var.ipv6 ? { for i in range(var.relays) : "relay${i + 1}" => cidrhost(local.dmz6, 11 + i) } : {}
  resolvers         = [local.resolver]
  dns_zone          = var.dns_zone
  directory         = { base = "o=isp", start_tls = true, ca = "tls/ca.pem" }
  options           = { for t in ["relay", "backend", "witness"] : t => merge({ log = { format = "text" } }, lookup(var.options, t, {})) }
}

module "zones" {
  source    = "../../modules/local-zones"
  prefix    = var.prefix
  state_dir = var.state_dir
  zones     = local.site
  internet  = local.internet
  internet6 = local.internet6
  dmz6      = local.dmz6
  firewalls = module.topology.firewalls.zone
  hosts     = local.hosts
}

# Programs of versions that nobody has given a folder for.
resource "terraform_data" "programs" {
  for_each         = toset([for v in keys(local.programs) : v if !contains(keys(var.binaries), v)])
  triggers_replace = [module.zones.home, each.value]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" build"
    environment = { SCRIPT = "${abspath(path.module)}/local.sh", VERSION = each.value, OUT = local.programs[each.value] }
  }
}

# CA, certificates of operator and directory, key of gossip.
resource "terraform_data" "keys" {
  triggers_replace = [module.zones.home, local.directory]
  depends_on       = [terraform_data.programs]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" keys"
    environment = { SCRIPT = "${abspath(path.module)}/local.sh", TOOL = local.tool, OPERATOR = local.operator, CLUSTER = "local", DIRECTORY = local.directory }
  }
}

# What postern --dir and postern probe read.
resource "terraform_data" "files" {
  triggers_replace = [module.zones.home, sha256(jsonencode([local.cluster, local.probe, local.drills]))]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" files"
    environment = { SCRIPT = "${abspath(path.module)}/local.sh", STATE = var.state_dir, FILE = jsonencode(local.cluster), PROBE = jsonencode(local.probe), DRILLS = yamlencode(local.drills) }
  }
}

# Only relays may ask the directory, and it asks nobody.
resource "terraform_data" "directory_rules" {
  triggers_replace = [module.zones.hosts["directory"], sha256(local.directory_rules)]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" rules directory"
    environment = merge(module.zones.ground.environment, { SCRIPT = module.zones.ground.script, RULES = local.directory_rules })
  }
}

locals {
  directory_rules = templatefile("${path.module}/../../modules/topology/machine.nft.tftpl", {
    in = flatten([for r in module.topology.rules : [for proto in r.protocols :
      "ip saddr { ${join(", ", module.topology.groups[r.from])} } ${proto} dport { ${join(", ", r.ports)} } accept comment \"${r.id}\""
    ] if r.to == "directory"])
    out = []
  })
  services = {
    directory = {
      arguments = "--ldap ${local.directory}:389 --domain ${var.domain} --users ${var.users} --pairs ${var.pairs} --tls-cert ${local.operator}/directory.pem --tls-key ${local.operator}/directory-key.pem"
      zone      = ""
    }
    internet = {
      arguments = "--dns ${local.resolver}:53 --zone ${var.state_dir}/internet.zone --origin ${var.domain}"
      zone      = module.topology.dns.zone_file
    }
  }
}

resource "terraform_data" "service" {
  for_each         = local.services
  input            = { script = "${abspath(path.module)}/local.sh", environment = merge(module.zones.ground.environment, { ZONES = module.zones.ground.script, NAME = each.key }) }
  triggers_replace = [terraform_data.keys.id, module.zones.hosts[each.key], each.value]
  depends_on       = [terraform_data.directory_rules]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" serve"
    environment = merge(self.input.environment, { SCRIPT = self.input.script, TOOL = local.tool, ARGUMENTS = each.value.arguments, ZONE_FILE = each.value.zone })
  }
  provisioner "local-exec" {
    when        = destroy
    command     = "exec sh \"$SCRIPT\" unserve"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
}

module "node" {
  source       = "../../modules/local-node"
  for_each     = module.topology.nodes
  ground       = module.zones.ground
  name         = each.key
  node         = each.value
  config       = module.topology.configs[each.key]
  rules        = module.topology.firewalls.machine[each.value.host]
  certificates = module.topology.certificates[each.key]
  ids          = local.ids[each.key]
  operator_dir = local.operator
  programs     = local.programs[each.value.version]
  depends_on   = [terraform_data.keys, terraform_data.service, terraform_data.directory_rules]
}

# One tier after the other.
module "witnesses" {
  source      = "../../modules/rollout"
  tier        = "witness"
  release     = var.versions.witness
  nodes       = local.tiers.witness
  configs     = { for name in local.tiers.witness : name => module.node[name].steward.config }
  tool        = "${local.programs[var.versions.witness]}/postern"
  cluster     = ["--dir", var.state_dir]
  enter       = local.enter["management"]
  replace     = module.node[local.tiers.witness[0]].steward.replace
  refresh     = module.node[local.tiers.witness[0]].steward.refresh
  environment = merge(module.node[local.tiers.witness[0]].steward.environment, { BIN = local.programs[var.versions.witness] })
  depends_on  = [module.node, module.zones, terraform_data.files]
}

module "backends" {
  source      = "../../modules/rollout"
  tier        = "backend"
  release     = var.versions.backend
  nodes       = local.tiers.backend
  configs     = { for name in local.tiers.backend : name => module.node[name].steward.config }
  tool        = "${local.programs[var.versions.backend]}/postern"
  cluster     = ["--dir", var.state_dir]
  enter       = local.enter["management"]
  replace     = module.node[local.tiers.backend[0]].steward.replace
  refresh     = module.node[local.tiers.backend[0]].steward.refresh
  environment = merge(module.node[local.tiers.backend[0]].steward.environment, { BIN = local.programs[var.versions.backend] })
  depends_on  = [module.witnesses]
}

module "relays" {
  source        = "../../modules/rollout"
  tier          = "relay"
  release       = var.versions.relay
  nodes         = local.tiers.relay
  configs       = { for name in local.tiers.relay : name => module.node[name].steward.config }
  tool          = "${local.programs[var.versions.relay]}/postern"
  cluster       = ["--dir", var.state_dir]
  enter         = local.enter["management"]
  replace       = module.node[local.tiers.relay[0]].steward.replace
  refresh       = module.node[local.tiers.relay[0]].steward.refresh
  environment   = merge(module.node[local.tiers.relay[0]].steward.environment, { BIN = local.programs[var.versions.relay] })
  drain_timeout = "5s"
  depends_on    = [module.backends]
}
