# What the domain's DNS has to say: names of relays, MX of equal weight, the name that
# clients use and how they find it (RFC 6186, RFC 8314), and who may send (RFC 7208).
locals {
  public = { for name, n in local.relay_nodes : name => lookup(var.public_addresses, name, n.address) }
  with   = { for role in ["mx", "submit", "proxy", "outbound"] : role => [for name, n in local.relay_nodes : name if contains(n.roles, role)] }
  client = distinct(concat(local.with.submit, local.with.proxy))
  # Only of relays that there are.
  public6 = { for name, a in var.public_addresses6 : name => a if contains(keys(local.relay_nodes), name) }

  dns_records = concat(
    [for name, a in local.public : { name = local.hostnames[name], type = "A", value = a }],
    [for name, a in local.public6 : { name = local.hostnames[name], type = "AAAA", value = a }],
    [for name in local.with.mx : { name = var.domain, type = "MX", value = "10 ${local.hostnames[name]}." } if length(local.dns_zones) == 0],
    # The relays' own zone: its servers are all relays, below it, with their addresses
    # as glue.
    flatten([for z in local.dns_zones : concat(
      [{ name = var.domain, type = "MX", value = "10 ${z.name}." }],
      [for name in keys(local.relay_nodes) : { name = z.name, type = "NS", value = "${name}.${z.name}." }],
      [for name, a in local.public : { name = "${name}.${z.name}", type = "A", value = a }],
      [for name, a in local.public6 : { name = "${name}.${z.name}", type = "AAAA", value = a }],
    )]),
    [for name in local.client : { name = "mail.${var.domain}", type = "A", value = local.public[name] }],
    [for name in local.client : { name = "mail.${var.domain}", type = "AAAA", value = local.public6[name] } if contains(keys(local.public6), name)],
    length(local.with.submit) == 0 ? [] : [{ name = "_submissions._tcp.${var.domain}", type = "SRV", value = "0 1 ${var.ports.submissions} mail.${var.domain}." }],
    length(local.with.proxy) == 0 ? [] : [
      { name = "_imaps._tcp.${var.domain}", type = "SRV", value = "0 1 ${var.ports.imaps} mail.${var.domain}." },
      { name = "_pop3s._tcp.${var.domain}", type = "SRV", value = "10 1 ${var.ports.pop3s} mail.${var.domain}." },
    ],
    length(local.with.outbound) == 0 ? [] : [{ name = var.domain, type = "TXT", value = join(" ", concat(["v=spf1"], [for name in local.with.outbound : "ip4:${local.public[name]}"], [for name in local.with.outbound : "ip6:${local.public6[name]}" if contains(keys(local.public6), name)], ["-all"])) }],
  )

  zone_lines = [for r in local.dns_records : "${r.name}. ${var.dns_ttl} IN ${r.type} ${r.type == "TXT" ? join(" ", [for part in regexall(".{1,250}", r.value) : "\"${part}\""]) : r.value}"]
}
