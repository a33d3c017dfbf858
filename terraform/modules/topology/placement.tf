# Which node is where. A pair's replicas stand in different sites, or where there is
# one, in different failure domains, or at least on different machines; its witness
# in a third of the same.
locals {
  site_names = var.sites[*].name
  site       = { for s in var.sites : s.name => s }
  pair_names = [for i in range(var.pairs) : "pair${i + 1}"]
  given      = length(var.hosts) > 0

  # Machines by site, failure domain and number, for the choices below.
  data_hosts = { for s in var.sites : s.name => { for d in s.failure_domains : d => sort([for n, h in var.hosts : n if h.zone == "data" && h.site == s.name && h.failure_domain == d]) } }
  # Failure domains that can take a node.
  domains = { for s in var.sites : s.name => local.given ? [for d in s.failure_domains : d if length(local.data_hosts[s.name][d]) > 0] : s.failure_domains }

  # The three places of each pair. turn counts how often the sites have been gone
  # through; step tells apart members of the same pair in the same site.
  slots = flatten([for i, pair in local.pair_names : [for k, member in ["a", "b", "witness"] : {
    pair   = pair
    number = i
    member = member
    site   = member == "witness" && var.witness_site != "" ? var.witness_site : local.data_sites[(i + k) % length(local.data_sites)]
    turn   = floor(i / length(local.data_sites))
    step   = member == "witness" && var.witness_site != "" ? (contains(local.data_sites, var.witness_site) ? 2 : 0) : floor(k / length(local.data_sites))
  }]])
  # A site for witnesses has no replicas when two others have room for them.
  data_sites = var.witness_site != "" && length(var.sites) > 2 ? [for s in local.site_names : s if s != var.witness_site] : local.site_names

  chosen = [for s in local.slots : merge(s, {
    failure_domain = try(local.domains[s.site][(s.turn + s.step) % length(local.domains[s.site])], "")
    nth            = try(floor((s.turn + s.step) / length(local.domains[s.site])), 0)
  })]
  placed = { for s in local.chosen : "${s.pair}/${s.member}" => merge(s, {
    host = (
      !local.given ? (s.member == "witness" ? "${s.site}/${s.failure_domain}" : "${s.pair}-${s.member}") :
      try(var.placement[s.pair][s.member], local.data_hosts[s.site][s.failure_domain][s.nth % length(local.data_hosts[s.site][s.failure_domain])], "")
    )
  }) }

  # Witnesses: one process for all pairs of a machine or, where every node gets a
  # machine of its own, of a failure domain, whose number is its name, so that a new
  # pair renames none.
  all_domains = flatten([for n in range(max([for s in var.sites : length(s.failure_domains)]...)) :
  [for s in var.sites : "${s.name}/${s.failure_domains[n]}" if n < length(s.failure_domains)]])
  witness_places = sort(distinct([for k, p in local.placed : p.host if p.member == "witness"]))
  witness_name   = { for x in local.witness_places : x => local.given ? "${x}-witness" : "witness${try(index(local.all_domains, x), 0) + 1}" }

  relay_hosts = sort([for n, h in var.hosts : n if h.zone == "dmz"])
  relay_spots = [for i in range(var.relays) : {
    name           = "relay${i + 1}"
    site           = local.given ? try(var.hosts[local.relay_hosts[i]].site, "") : local.site_names[i % length(var.sites)]
    failure_domain = local.given ? try(var.hosts[local.relay_hosts[i]].failure_domain, "") : local.site[local.site_names[i % length(var.sites)]].failure_domains[floor(i / length(var.sites)) % length(local.site[local.site_names[i % length(var.sites)]].failure_domains)]
    host           = local.given ? try(local.relay_hosts[i], "") : "relay${i + 1}"
  }]
}
