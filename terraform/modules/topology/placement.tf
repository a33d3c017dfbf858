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

  in_turn = [for s in local.slots : merge(s, {
    failure_domain = try(local.domains[s.site][(s.turn + s.step) % length(local.domains[s.site])], "")
    nth            = try(floor((s.turn + s.step) / length(local.domains[s.site])), 0)
  })]
  # A witness whose turn leads it to a replica of its pair goes to the next failure
  # domain without one, in its site, or, where the site is not prescribed, in another.
  taken = { for pair in local.pair_names : pair => [for s in local.in_turn : "${s.site}/${s.failure_domain}" if s.pair == pair && s.member != "witness"] }
  chosen = [for s in local.in_turn : merge(s, try([for x in concat(
    [{ site = s.site, failure_domain = s.failure_domain, nth = s.nth }],
    flatten([for o in concat([s.site], [for o in local.site_names : o if o != s.site && var.witness_site == ""]) : [for j in range(length(local.domains[o])) : {
      site           = o
      failure_domain = local.domains[o][(s.turn + s.step + j) % length(local.domains[o])]
      nth            = floor((s.turn + s.step + j) / length(local.domains[o]))
    }]]),
  ) : x if s.member == "witness" && x.failure_domain != "" && !contains(local.taken[s.pair], "${x.site}/${x.failure_domain}")][0], {}))]
  hosted = { for s in local.chosen : "${s.pair}/${s.member}" => merge(s, {
    host = (
      !local.given ? (s.member == "witness" ? "${s.site}/${s.failure_domain}" : "${s.pair}-${s.member}") :
      try(var.placement[s.pair][s.member], local.data_hosts[s.site][s.failure_domain][s.nth % length(local.data_hosts[s.site][s.failure_domain])], "")
    )
  }) }
  # Site and failure domain are those of the machine, whoever chose it.
  placed = { for k, p in local.hosted : k => merge(p, {
    site           = try(var.hosts[p.host].site, p.site)
    failure_domain = try(var.hosts[p.host].failure_domain, p.failure_domain)
  }) }

  # Pairs, placed by the plan, whose witness is where a replica is.
  crowded = [for pair in local.pair_names : pair if !contains(keys(var.placement), pair) && contains(
    [for m in ["a", "b"] : "${local.placed["${pair}/${m}"].site}/${local.placed["${pair}/${m}"].failure_domain}"],
  "${local.placed["${pair}/witness"].site}/${local.placed["${pair}/witness"].failure_domain}")]

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
