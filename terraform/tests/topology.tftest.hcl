# The plans of the topology module, from one relay and one pair to four relays and
# eight pairs over two sites, and what it refuses.

variables {
  cluster   = "example"
  domain    = "example.com"
  versions  = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  directory = { base = "o=isp" }
}

run "smallest" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    pairs  = 1
  }

  assert {
    condition     = join(" ", keys(output.nodes)) == "pair1-a pair1-b relay1 witness1"
    error_message = "nodes: ${join(" ", keys(output.nodes))}"
  }
  assert {
    condition     = [for n in ["relay1", "pair1-a", "pair1-b", "witness1"] : output.nodes[n].address] == ["10.77.1.11", "10.77.2.10", "10.77.2.11", "10.77.2.200"]
    error_message = "addresses: ${jsonencode({ for k, n in output.nodes : k => n.address })}"
  }
  assert {
    condition     = output.pairs.pair1.survives == []
    error_message = "a pair on one site does not survive its loss"
  }
  assert {
    condition     = length(setintersection(keys(output.nodes.witness1.services), ["lmtp", "pair_imap", "pair_pop3", "smtp"])) == 0
    error_message = "a witness has no mail port"
  }
  assert {
    condition     = yamldecode(output.configs["pair1-a"]).groups[0].members == yamldecode(output.configs["witness1"]).groups[0].members
    error_message = "the members of a pair do not agree on who they are"
  }
  assert {
    condition     = [for m in yamldecode(output.configs["pair1-a"]).groups[0].members : try(m.witness, false)] == [false, false, true] && length(distinct([for m in yamldecode(output.configs["pair1-a"]).groups[0].members : m.id if can(regex("^[0-9a-f]{16}$", m.id))])) == 3
    error_message = "members: ${output.configs["pair1-a"]}"
  }
  assert {
    condition     = yamldecode(output.configs.relay1).pairs[0] == { pair = "pair1", node = "pair1-a", lmtp = "10.77.2.10:2424", imap = "10.77.2.10:1430", pop3 = "10.77.2.10:1100" }
    error_message = "pairs of a relay: ${output.configs.relay1}"
  }
  assert {
    condition     = !can(yamldecode(output.configs.witness1).groups[0].serve) && !can(yamldecode(output.configs["pair1-a"]).directory)
    error_message = "a witness serves nothing, and no backend knows the directory"
  }
}

# Who may talk to whom, compared with a list that is written down here once more.
run "matrix" {
  command = plan
  module { source = "./modules/topology" }

  assert {
    condition = toset([for r in output.rules : "${r.from} ${r.to} ${join("+", r.protocols)} ${join(",", r.ports)}${r.within == "" ? "" : " ${r.within}"}"]) == toset([
      "internet relay tcp 25",
      "internet relay tcp 587,465",
      "internet relay tcp 143,993,110,995",
      "relay internet tcp 25",
      "relay internet tcp+udp 53",
      "relay directory tcp 389",
      "relay backend tcp 2424",
      "relay backend tcp 1430,1100",
      "relay relay tcp+udp 7946",
      "relay backend tcp+udp 7946",
      "relay witness tcp+udp 7946",
      "backend relay tcp+udp 7946",
      "backend backend tcp+udp 7946",
      "backend witness tcp+udp 7946",
      "witness relay tcp+udp 7946",
      "witness backend tcp+udp 7946",
      "witness witness tcp+udp 7946",
      "backend backend tcp 8300 pair",
      "backend witness tcp 8300 pair",
      "witness backend tcp 8300 pair",
      "management relay tcp 8443",
      "management backend tcp 8443",
      "management witness tcp 8443",
      "management relay tcp 9154",
      "management backend tcp 9155",
      "management witness tcp 9156",
      "management relay tcp 25,587,465,143,993,110,995",
    ])
    error_message = "rules:\n${join("\n", [for r in output.rules : "${r.from} ${r.to} ${join("+", r.protocols)} ${join(",", r.ports)} ${r.within}"])}"
  }
  assert {
    condition     = alltrue([for r in output.rules : r.secret != "" || contains(["mx", "outbound", "dns", "resolver", "directory", "metrics", "operators"], r.id)])
    error_message = "a port between the tiers asks for nothing"
  }
  # Firewalls: the inner one has nothing of the Internet, the outer one no way to data.
  assert {
    condition     = !strcontains(output.firewalls.zone.inner, "!=") && !can(regex("daddr \\{ 10\\.77\\.2\\.", output.firewalls.zone.outer)) && strcontains(output.firewalls.zone.inner, "ip saddr { 10.77.1.11, 10.77.1.12 } ip daddr { 10.77.2.10, 10.77.2.11 } tcp dport { 2424 } accept comment \"lmtp\"")
    error_message = "${output.firewalls.zone.outer}${output.firewalls.zone.inner}"
  }
  # Machines: raft from the two others of the pair and nobody else, LMTP from relays.
  assert {
    condition     = length(regexall("tcp dport \\{ 8300 \\} accept", regex("(?s)chain incoming.*chain outgoing", output.firewalls.machine["pair1-a"]))) == 2 && strcontains(output.firewalls.machine["pair1-a"], "ip saddr { 10.77.2.11 } ip daddr 10.77.2.10 tcp dport { 8300 }") && strcontains(output.firewalls.machine["pair1-a"], "ip saddr { 10.77.2.200 } ip daddr 10.77.2.10 tcp dport { 8300 }")
    error_message = output.firewalls.machine["pair1-a"]
  }
  assert {
    condition     = !strcontains(output.firewalls.machine["pair1-a"], "ip daddr !=") && !strcontains(output.firewalls.machine.witness1, "2424") && !strcontains(output.firewalls.machine.witness1, "!=")
    error_message = "backends and witnesses never reach the Internet, and a witness has no mail port"
  }
  assert {
    condition     = toset([for r in output.dns.records : "${r.name} ${r.type} ${r.value}" if contains(["MX", "SRV"], r.type)]) == toset(["example.com MX 10 relay1.example.com.", "example.com MX 10 relay2.example.com.", "_submissions._tcp.example.com SRV 0 1 465 mail.example.com.", "_imaps._tcp.example.com SRV 0 1 993 mail.example.com.", "_pop3s._tcp.example.com SRV 10 1 995 mail.example.com."])
    error_message = output.dns.zone_file
  }
  assert {
    condition     = output.certificates["pair1-a"].node.roles == tolist(["backend"]) && output.certificates.witness1.node.roles == tolist(["witness"]) && output.certificates.relay1.node.roles == tolist(["relay-mx", "relay-proxy"])
    error_message = jsonencode(output.certificates)
  }
}

run "two_sites" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 4
    pairs  = 8
    sites = [
      { name = "north", cidr = "10.10.0.0/16", failure_domains = ["r1", "r2"] },
      { name = "south", cidr = "10.20.0.0/16", failure_domains = ["r1", "r2"] },
    ]
  }

  assert {
    condition     = length([for n in output.nodes : n if n.tier == "backend"]) == 16 && length([for n in output.nodes : n if n.tier == "relay" && n.site == "north"]) == 2
    error_message = jsonencode({ for k, n in output.nodes : k => n.site })
  }
  assert {
    condition     = alltrue([for p in output.pairs : p.members.a.site != p.members.b.site])
    error_message = "the replicas of a pair stand in one site"
  }
  assert {
    condition     = alltrue([for p in output.pairs : length(distinct([for m in p.members : "${m.site}/${m.failure_domain}"])) == 3])
    error_message = "two members of a pair share a failure domain: ${jsonencode(output.pairs)}"
  }
  assert {
    condition     = alltrue([for p in output.pairs : length(p.survives) == 1]) && length([for p in output.pairs : p if contains(p.survives, "north")]) == 4
    error_message = "with two sites each pair survives the loss of one, half of them of each: ${jsonencode({ for k, p in output.pairs : k => p.survives })}"
  }
  assert {
    condition     = length(distinct([for n in output.nodes : n.address])) == length(output.nodes)
    error_message = "an address is used twice"
  }
  assert {
    condition     = length(distinct(flatten([for p in output.pairs : [for m in p.members : m.id]]))) == 24
    error_message = "a replica id is used twice"
  }
  assert {
    condition     = alltrue([for name, n in output.nodes : join(" ", yamldecode(output.configs[name]).groups[*].pair) == join(" ", n.groups) if n.tier == "witness"]) && length([for n in output.nodes : n if n.tier == "witness"]) == 4
    error_message = "a witness does not hold the groups of its pairs"
  }
}

# Sites that differ in failure domains: the second has none left for a witness.
run "uneven_sites" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    pairs = 4
    sites = [
      { name = "north", cidr = "10.10.0.0/16", failure_domains = ["1", "2", "3"] },
      { name = "south", cidr = "10.20.0.0/16" },
    ]
  }
  assert {
    condition     = alltrue([for p in output.pairs : length(distinct([for m in p.members : "${m.site}/${m.failure_domain}"])) == 3])
    error_message = jsonencode(output.pairs)
  }
}

run "witness_site_with_replicas" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    pairs        = 4
    witness_site = "south"
    sites = [
      { name = "north", cidr = "10.10.0.0/16", failure_domains = ["1", "2"] },
      { name = "south", cidr = "10.20.0.0/16", failure_domains = ["1", "2"] },
    ]
  }
  assert {
    condition     = alltrue([for p in output.pairs : p.members.witness.site == "south" && length(distinct([for m in p.members : "${m.site}/${m.failure_domain}"])) == 3])
    error_message = jsonencode(output.pairs)
  }
}

# Two failure domains are not enough for three members: planned all the same.
run "two_failure_domains" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    sites = [{ name = "north", cidr = "10.10.0.0/16" }, { name = "south", cidr = "10.20.0.0/16" }]
  }
  assert {
    condition     = output.pairs.pair1.members.a.site != output.pairs.pair1.members.b.site
    error_message = jsonencode(output.pairs)
  }
}

run "third_site_for_witnesses" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    pairs        = 4
    witness_site = "hill"
    sites = [
      { name = "north", cidr = "10.10.0.0/16" },
      { name = "south", cidr = "10.20.0.0/16" },
      { name = "hill", cidr = "10.30.0.0/20" },
    ]
  }
  assert {
    condition     = alltrue([for p in output.pairs : length(p.survives) == 3 && p.members.witness.site == "hill"])
    error_message = jsonencode(output.pairs)
  }
}

run "three_machines_two_pairs" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    pairs  = 2
    sites  = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51", failure_domain = "1" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52", failure_domain = "2" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53", failure_domain = "3" }
    }
    placement = { pair2 = { a = "m2", b = "m3", witness = "m1" } }
  }
  assert {
    condition     = { for k, p in output.pairs : k => [for m in ["a", "b", "witness"] : p.members[m].host] } == { pair1 = ["m1", "m2", "m3"], pair2 = ["m2", "m3", "m1"] }
    error_message = jsonencode(output.pairs)
  }
  assert {
    condition     = [for g in yamldecode(output.configs["m2-store"]).groups : g.serve.lmtp] == ["10.77.2.52:2424", "10.77.2.52:2425"]
    error_message = output.configs["m2-store"]
  }
  assert {
    condition     = yamldecode(output.configs["m1-witness"]).raft.listen == "10.77.2.51:8301" && strcontains(output.firewalls.machine.m1, "ip daddr 10.77.2.51 tcp dport { 8301 }")
    error_message = output.configs["m1-witness"]
  }
}

# What is said of a member is true of the machine that placement names.
run "placement_against_the_turn" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 1
    sites  = [{ name = "a", cidr = "10.77.0.0/16", failure_domains = ["1", "2", "3"] }]
    hosts = {
      edge = { site = "a", zone = "dmz", address = "10.77.1.50" }
      m1   = { site = "a", zone = "data", address = "10.77.2.51", failure_domain = "1" }
      m2   = { site = "a", zone = "data", address = "10.77.2.52", failure_domain = "2" }
      m3   = { site = "a", zone = "data", address = "10.77.2.53", failure_domain = "3" }
    }
    placement = { pair1 = { a = "m3", b = "m1", witness = "m2" } }
  }
  assert {
    condition     = [for m in ["a", "b", "witness"] : output.pairs.pair1.members[m].failure_domain] == ["3", "1", "2"] && output.nodes["m3-store"].failure_domain == "3" && output.nodes["m2-witness"].failure_domain == "2"
    error_message = jsonencode(output.pairs)
  }
}

run "versions_and_addresses" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    versions         = { relay = "0.4.0", backend = "0.3.1", witness = "0.3.0" }
    public_addresses = { relay2 = "192.0.2.2" }
  }
  assert {
    condition     = { for k, n in output.nodes : k => n.version } == { relay1 = "0.4.0", relay2 = "0.4.0", pair1-a = "0.3.1", pair1-b = "0.3.1", witness1 = "0.3.0" }
    error_message = jsonencode({ for k, n in output.nodes : k => n.version })
  }
  assert {
    condition     = toset([for r in output.dns.records : "${r.name} ${r.value}" if r.type == "A"]) == toset(["relay1.example.com 10.77.1.11", "relay2.example.com 192.0.2.2", "mail.example.com 10.77.1.11", "mail.example.com 192.0.2.2"])
    error_message = output.dns.zone_file
  }
  assert {
    condition     = yamldecode(output.configs.relay1).directory == { urls = ["ldap://10.77.2.5:389"], base = "o=isp", default_domain = "example.com", schema = "sun-schema2" } && yamldecode(output.configs.relay2).hostname == "relay2.example.com"
    error_message = output.configs.relay1
  }
}

# A relay with IPv6: names, certificate, what it tells the others, and both firewalls.
# The one without, and the tiers behind, have nothing of it.
run "ipv6" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses6 = { relay2 = "2001:db8::2" }
  }
  assert {
    condition     = toset([for r in output.dns.records : "${r.name} ${r.value}" if r.type == "AAAA"]) == toset(["relay2.example.com 2001:db8::2", "mail.example.com 2001:db8::2"])
    error_message = output.dns.zone_file
  }
  assert {
    condition     = strcontains(output.dns.zone_file, "v=spf1 ip4:10.77.1.11 ip4:10.77.1.12 ip6:2001:db8::2 -all")
    error_message = output.dns.zone_file
  }
  assert {
    condition     = contains(output.certificates.relay2.public.addresses, "2001:db8::2") && !contains(output.certificates.relay1.public.addresses, "2001:db8::2")
    error_message = jsonencode(output.certificates)
  }
  assert {
    condition     = yamldecode(output.configs.relay2).public == { addresses = ["10.77.1.12", "2001:db8::2"] } && try(yamldecode(output.configs.relay1).public, {}) == {}
    error_message = output.configs.relay2
  }
  assert {
    condition = alltrue([for text in [output.firewalls.machine.relay2, output.firewalls.zone.outer] : toset(regexall("dport \\{ [0-9, ]+ \\}", join("\n", regexall("ip6 saddr 2000::/3 ip6 daddr .*", text)))) ==
    toset(["dport { 25 }", "dport { 587, 465 }", "dport { 143, 993, 110, 995 }"]) && length(regexall("ip6 saddr .*2001:db8::2.* ip6 daddr 2000::/3 (tcp|udp) dport \\{ (25|53) \\}", text)) == 3])
    error_message = "${output.firewalls.machine.relay2}${output.firewalls.zone.outer}"
  }
  assert {
    condition     = !anytrue([for text in [output.firewalls.zone.inner, output.firewalls.machine.relay1, output.firewalls.machine["pair1-a"], output.firewalls.machine.witness1] : strcontains(text, "ip6 ")])
    error_message = "IPv6 where there is none"
  }
}

# A zone that the relays answer for: configuration, port 53 in the matrix, in both
# firewalls and for the probe, delegation with glue. Without one none of it.
run "zone_of_the_relays" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    public_addresses  = { relay1 = "198.51.100.1", relay2 = "198.51.100.2" }
    public_addresses6 = { relay2 = "2001:db8::2" }
    dns_zone          = { name = "mx.example.com", names = ["imap.mx.example.com"], contact = "dns@example.com", ttl = 20 }
  }
  assert {
    condition     = yamldecode(output.configs.relay1).dns.serve == { listen = [":53"], zone = "mx.example.com", names = ["imap.mx.example.com"], ttl = "20s", contact = "dns@example.com" }
    error_message = output.configs.relay1
  }
  assert {
    condition     = yamldecode(output.configs.relay1).public == { addresses = ["198.51.100.1"] } && yamldecode(output.configs.relay2).public == { addresses = ["198.51.100.2", "2001:db8::2"] }
    error_message = "what relays tell of themselves"
  }
  assert {
    condition     = [for r in output.rules : "${r.from} ${r.to} ${join("+", r.protocols)} ${join(",", r.ports)}" if r.id == "zone"] == ["internet relay tcp+udp 53"] && output.nodes.relay1.services.dns == [53] && !can(output.nodes["pair1-a"].services.dns)
    error_message = jsonencode(output.rules)
  }
  assert {
    condition     = [for r in output.probe.rules : join(",", r.services) if r.id == "zone"] == ["dns"] && [for n in output.probe.nodes : n.name if can(n.services.dns)] == ["relay1", "relay2"]
    error_message = jsonencode(output.probe)
  }
  assert {
    condition = alltrue([for text in [output.firewalls.machine.relay2, output.firewalls.zone.outer] :
      length(regexall("ip saddr != .* ip daddr .* (tcp|udp) dport \\{ 53 \\} accept comment \"zone\"", text)) == 2 && length(regexall("ip6 saddr 2000::/3 ip6 daddr .*2001:db8::2.* (tcp|udp) dport \\{ 53 \\} accept comment \"zone\"", text)) == 2
    ]) && !strcontains(output.firewalls.zone.inner, "\"zone\"") && !strcontains(output.firewalls.machine["pair1-a"], "\"zone\"")
    error_message = "${output.firewalls.machine.relay2}${output.firewalls.zone.outer}"
  }
  assert {
    condition = toset([for r in output.dns.records : "${r.name} ${r.type} ${r.value}" if r.type == "MX" || strcontains(r.name, "mx.example.com")]) == toset([
      "example.com MX 10 mx.example.com.",
      "mx.example.com NS relay1.mx.example.com.", "mx.example.com NS relay2.mx.example.com.",
      "relay1.mx.example.com A 198.51.100.1", "relay2.mx.example.com A 198.51.100.2", "relay2.mx.example.com AAAA 2001:db8::2",
    ])
    error_message = output.dns.zone_file
  }
  assert {
    condition     = output.certificates.relay1.public.dns_names == tolist(["relay1.example.com", "mail.example.com", "mx.example.com", "relay1.mx.example.com", "imap.mx.example.com"])
    error_message = jsonencode(output.certificates.relay1)
  }
}

run "no_zone_of_the_relays" {
  command = plan
  module { source = "./modules/topology" }
  assert {
    condition     = !can(yamldecode(output.configs.relay1).dns.serve) && !contains(output.rules[*].id, "zone") && !strcontains("${output.firewalls.machine.relay1}${output.firewalls.zone.outer}", "\"zone\"") && !can(output.nodes.relay1.services.dns)
    error_message = "port 53 is open, and nobody has asked for it"
  }
}

run "growth_moves_nobody" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays = 3
    pairs  = 2
  }
  assert {
    condition     = [for n in ["relay1", "relay2", "pair1-a", "pair1-b", "witness1"] : output.nodes[n].address] == ["10.77.1.11", "10.77.1.12", "10.77.2.10", "10.77.2.11", "10.77.2.200"]
    error_message = jsonencode({ for k, n in output.nodes : k => n.address })
  }
  assert {
    condition     = output.pairs.pair1.members.a.id == substr(sha256("postern replica/example//pair1/pair1-a/0"), 0, 16)
    error_message = "the id of a replica depends on more than its name"
  }
}

run "generation_changes_one_id" {
  command = plan
  module { source = "./modules/topology" }
  variables { generations = { pair1-b = 1 } }
  assert {
    condition     = output.pairs.pair1.members.b.id == substr(sha256("postern replica/example//pair1/pair1-b/1"), 0, 16) && output.pairs.pair1.members.a.id == substr(sha256("postern replica/example//pair1/pair1-a/0"), 0, 16)
    error_message = jsonencode(output.pairs)
  }
}

run "roles_and_options" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    relays      = 3
    relay_roles = { relay2 = ["mx"], relay3 = ["proxy"] }
    options     = { relay = { smtp = { max_size = "10MB" }, log = { level = "debug" } } }
  }
  assert {
    condition     = yamldecode(output.configs.relay3).smtp.listen == [] && yamldecode(output.configs.relay1).smtp == { listen = [":25"], max_size = "10MB" } && yamldecode(output.configs.relay1).log.level == "debug"
    error_message = output.configs.relay1
  }
  assert {
    condition     = output.certificates.relay2.node.roles == tolist(["relay-mx"]) && output.certificates.relay3.node.roles == tolist(["relay-proxy"])
    error_message = jsonencode(output.certificates)
  }
  assert {
    condition     = length([for r in output.dns.records : r if r.type == "MX"]) == 2 && !strcontains(output.firewalls.machine.relay3, "dport { 25 } accept comment \"mx\"")
    error_message = output.dns.zone_file
  }
}

# What machines need besides: nothing unless it is asked for, and then only that.
run "machines_besides" {
  command = plan
  module { source = "./modules/topology" }
  variables {
    ssh_port     = 22
    time_servers = ["10.77.3.9"]
  }

  assert {
    condition = toset([for r in output.rules : "${r.from} ${r.to} ${join("+", r.protocols)} ${join(",", r.ports)}" if contains(["ssh", "time"], r.id)]) == toset([
      "management relay tcp 22", "management backend tcp 22", "management witness tcp 22",
      "relay time udp 123", "backend time udp 123", "witness time udp 123",
    ])
    error_message = "rules: ${jsonencode([for r in output.rules : r if contains(["ssh", "time"], r.id)])}"
  }
  assert {
    condition = alltrue([for h in ["relay1", "pair1-a", "witness1"] :
      strcontains(output.firewalls.machine[h], "ip saddr { 10.77.3.0/24 } ip daddr ${output.nodes[h].address} tcp dport { 22 } accept") &&
    strcontains(output.firewalls.machine[h], "ip daddr { 10.77.3.9 } udp dport { 123 } accept")])
    error_message = "rules of a machine: ${output.firewalls.machine["pair1-a"]}"
  }
  assert {
    condition     = !strcontains(output.firewalls.zone.outer, "dport { 22 }") && strcontains(output.firewalls.zone.inner, "dport { 22 }")
    error_message = "the outer firewall lets ssh through, or the inner one does not"
  }
}
