variable "cluster" {
  description = "Name of the cluster, the one in its certificates."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", var.cluster))
    error_message = "cluster: want letters in lower case, digits, hyphens and dots, at most 63, with a letter or digit at both ends."
  }
}

variable "domain" {
  description = "Mail domain. The relays are relay1.DOMAIN and so on, clients use mail.DOMAIN."
  type        = string
  nullable    = false

  validation {
    condition     = length(var.domain) <= 200 && can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])$", var.domain))
    error_message = "domain: want a host name in lower case with at least two labels, such as example.com."
  }
}

variable "sites" {
  description = <<-T
    Where nodes are. Each site has a network of its own, of which the zones are /24
    blocks: dmz the second, data the third, mgmt the fourth. Names of failure domains
    (racks, rooms, availability zones) are the site's own. Nodes are spread over sites
    first, then over failure domains.
  T
  type = list(object({
    name            = string
    cidr            = string
    failure_domains = optional(list(string), ["1"])
  }))
  default  = [{ name = "a", cidr = "10.77.0.0/16" }]
  nullable = false

  validation {
    condition     = length(var.sites) >= 1 && length(var.sites) <= 8
    error_message = "sites: want 1 to 8."
  }
  validation {
    condition     = alltrue([for s in var.sites : can(regex("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", s.name))]) && length(distinct(var.sites[*].name)) == length(var.sites)
    error_message = "sites: names are letters in lower case, digits and hyphens, at most 32, each used once."
  }
  validation {
    condition     = alltrue([for s in var.sites : can(cidrhost(s.cidr, 0)) && can(regex("^[0-9.]+/(1[6-9]|2[0-2])$", s.cidr)) && try(cidrhost(s.cidr, 0) == split("/", s.cidr)[0], false)])
    error_message = "sites: cidr is an IPv4 network of /16 to /22, such as 10.77.0.0/16."
  }
  validation {
    condition = alltrue([for i, a in var.sites : alltrue([for j, b in var.sites : j <= i || try(
      cidrhost("${split("/", a.cidr)[0]}/${min(split("/", a.cidr)[1], split("/", b.cidr)[1])}", 0) !=
    cidrhost("${split("/", b.cidr)[0]}/${min(split("/", a.cidr)[1], split("/", b.cidr)[1])}", 0), false)])])
    error_message = "sites: the networks overlap."
  }
  validation {
    condition     = alltrue([for s in var.sites : length(s.failure_domains) >= 1 && length(distinct(s.failure_domains)) == length(s.failure_domains) && alltrue([for d in s.failure_domains : can(regex("^[A-Za-z0-9._-]{1,63}$", d))])])
    error_message = "sites: each has at least one failure domain, with a name of its own of letters, digits, dots, underscores and hyphens."
  }
}

variable "witness_site" {
  description = "Site of all witnesses. Empty: a site other than those of the replicas when there are three, otherwise each of the two in turn."
  type        = string
  default     = ""
  nullable    = false
}

variable "relays" {
  description = "Number of relays."
  type        = number
  default     = 2
  nullable    = false

  validation {
    condition     = var.relays >= 1 && var.relays <= 64 && floor(var.relays) == var.relays
    error_message = "relays: want 1 to 64."
  }
}

variable "relay_roles" {
  description = "What relays do: mx, submit, proxy, outbound. The key is the name of a relay, or default."
  type        = map(list(string))
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for r, roles in var.relay_roles : length(roles) > 0 && length(distinct(roles)) == length(roles) && alltrue([for x in roles : contains(["mx", "submit", "proxy", "outbound"], x)])])
    error_message = "relay_roles: want some of mx, submit, proxy, outbound, each once."
  }
}

variable "pairs" {
  description = "Number of pairs, each with two data replicas and a witness."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.pairs >= 1 && var.pairs <= 64 && floor(var.pairs) == var.pairs
    error_message = "pairs: want 1 to 64."
  }
}

variable "hosts" {
  description = <<-T
    Machines that exist, by name: their site, failure domain, the zone they stand in,
    dmz or data, and their address there. Nodes are placed on them; a machine in data
    may hold replicas and witnesses of several pairs. Empty: every node gets a machine
    and an address of its own.
  T
  type = map(object({
    site           = string
    failure_domain = optional(string, "1")
    zone           = string
    address        = string
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for n, h in var.hosts : can(regex("^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$", n)) && contains(["dmz", "data"], h.zone)])
    error_message = "hosts: names are letters in lower case, digits and hyphens; zone is dmz or data."
  }
  validation {
    condition     = alltrue([for h in values(var.hosts) : can(cidrhost("${h.address}/32", 0))]) && length(distinct([for h in values(var.hosts) : h.address])) == length(var.hosts)
    error_message = "hosts: addresses are IPv4 addresses, each used once."
  }
}

variable "placement" {
  description = "Hosts of the replicas and the witness of pairs, by pair, where the plan's own choice is not to be followed. Fix the output placement here before hosts change: a replica that the plan moves would be an empty one."
  type = map(object({
    a       = string
    b       = string
    witness = string
  }))
  default  = {}
  nullable = false
}

variable "generations" {
  description = "How often the replica of a node has been made anew, by names of nodes. Raise it for a node that lost its directory, so that its replica gets another id."
  type        = map(number)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for g in values(var.generations) : g >= 0 && floor(g) == g])
    error_message = "generations: want whole numbers from 0 on."
  }
}

variable "seed" {
  description = "Goes into the ids of replicas. Give another one to a cluster that is made anew under the same name."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{0,64}$", var.seed))
    error_message = "seed: want at most 64 letters, digits, dots, underscores and hyphens."
  }
}

variable "versions" {
  description = "Version of each tier. Tiers are upgraded apart; releases next to each other work together."
  type = object({
    relay   = string
    backend = string
    witness = string
  })
  nullable = false

  validation {
    condition     = alltrue([for v in values(var.versions) : can(regex("^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)([-+~.][0-9A-Za-z]+)*$", v)) && length(v) <= 64])
    error_message = "versions: want numbers such as 0.2.0 or 0.3.0-rc1."
  }
  validation {
    condition     = alltrue([for a in values(var.versions) : alltrue([for b in values(var.versions) : try(split(".", a)[0] == split(".", b)[0] && abs(split(".", a)[1] - split(".", b)[1]) <= 1, false)])])
    error_message = "versions: only releases next to each other work together, such as 0.2 and 0.3."
  }
}

variable "ports" {
  description = "Ports of the services. Those of a pair's services are the first of up to ten, for machines that hold several pairs. metrics is that of the relays; backends have the next, witnesses the one after."
  type = object({
    smtp        = optional(number, 25)
    submission  = optional(number, 587)
    submissions = optional(number, 465)
    imap        = optional(number, 143)
    imaps       = optional(number, 993)
    pop3        = optional(number, 110)
    pop3s       = optional(number, 995)
    lmtp        = optional(number, 2424)
    pair_imap   = optional(number, 1430)
    pair_pop3   = optional(number, 1100)
    raft        = optional(number, 8300)
    gossip      = optional(number, 7946)
    admin       = optional(number, 8443)
    metrics     = optional(number, 9154)
    dns         = optional(number, 53)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for p in values(var.ports) : p >= 1 && p <= 65525 && floor(p) == p])
    error_message = "ports: want 1 to 65525."
  }
  validation {
    condition     = length(distinct([for k in ["smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s", "gossip", "admin", "metrics", "dns"] : var.ports[k]])) == 11
    error_message = "ports: two services of relays have the same."
  }
  validation {
    condition = length(distinct(concat(
      flatten([for k in ["lmtp", "pair_imap", "pair_pop3"] : range(var.ports[k], var.ports[k] + 10)]),
    [var.ports.raft, var.ports.gossip, var.ports.admin, var.ports.metrics + 1]))) == 34
    error_message = "ports: two services of backends have the same, or one of the ten from lmtp, pair_imap or pair_pop3 on."
  }
}

variable "directory" {
  description = <<-T
    The LDAP servers. addresses are theirs; empty: one in the data zone of the first
    site, at its fifth address. urls is what relays are told; empty: ldap:// at the
    addresses.
  T
  type = object({
    base          = string
    addresses     = optional(list(string), [])
    ports         = optional(list(number), [389])
    urls          = optional(list(string), [])
    bind_dn       = optional(string, "")
    password_file = optional(string, "")
    start_tls     = optional(bool, false)
    ca            = optional(string, "")
    schema        = optional(string, "sun-schema2")
  })
  nullable = false

  validation {
    condition     = can(regex("^[A-Za-z0-9.-]+=.", var.directory.base))
    error_message = "directory: base is a distinguished name, such as o=isp."
  }
  validation {
    condition     = alltrue([for a in var.directory.addresses : can(cidrhost("${a}/32", 0))])
    error_message = "directory: addresses are IPv4 addresses; the firewalls need them."
  }
  validation {
    condition     = length(var.directory.ports) > 0 && alltrue([for p in var.directory.ports : p >= 1 && p <= 65535 && floor(p) == p])
    error_message = "directory: ports are those of LDAP, such as 389 with StartTLS or 636."
  }
  validation {
    condition     = alltrue([for u in var.directory.urls : can(regex("^ldaps?://[^/ ]+/?$", u))])
    error_message = "directory: urls are ldap://host:port or ldaps://host:port."
  }
  validation {
    condition     = alltrue([for x in concat(var.directory.urls, [var.directory.base, var.directory.bind_dn, var.directory.password_file, var.directory.ca]) : !can(regex("[[:cntrl:]]", x))])
    error_message = "directory: a value holds a line break or another control character."
  }
  validation {
    condition     = var.directory.bind_dn == "" || var.directory.password_file != ""
    error_message = "directory: bind_dn needs a password_file, the name of a file on the relays; a password has no place in a state file."
  }
  validation {
    condition     = contains(["sun-schema1", "sun-schema2", "sun-compat", "generic"], var.directory.schema)
    error_message = "directory: schema is sun-schema1, sun-schema2, sun-compat or generic."
  }
}

variable "resolvers" {
  description = "Addresses of the DNS resolvers that relays ask. Empty: those of the machine's resolv.conf, on the Internet."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for a in var.resolvers : can(cidrhost("${a}/32", 0))])
    error_message = "resolvers: want IPv4 addresses."
  }
}

variable "management" {
  description = "Networks that operators come from, besides the mgmt zones."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for c in var.management : can(cidrhost(c, 0)) && can(regex("^[0-9.]+/(8|9|[12][0-9]|3[0-2])$", c))])
    error_message = "management: want IPv4 networks of /8 to /32; the Internet is none."
  }
}

variable "ssh_port" {
  description = "Port at which operators reach the machines themselves, from mgmt and management. 0: the firewalls let none through."
  type        = number
  default     = 0
  nullable    = false

  validation {
    condition     = var.ssh_port >= 0 && var.ssh_port <= 65535 && floor(var.ssh_port) == var.ssh_port
    error_message = "ssh_port: want 1 to 65535, or 0 for none."
  }
  validation {
    condition     = !contains(values(var.ports), var.ssh_port)
    error_message = "ssh_port: a service of Postern has it."
  }
}

variable "time_servers" {
  description = "Addresses of the NTP servers that the machines ask. Empty: they get their time otherwise, and the firewalls let no NTP out."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for a in var.time_servers : can(cidrhost("${a}/32", 0))])
    error_message = "time_servers: want IPv4 addresses."
  }
}

variable "public_addresses" {
  description = "Public addresses of relays by name, for DNS. A relay without one is known by its address in the dmz."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for a in values(var.public_addresses) : can(cidrhost("${a}/32", 0))])
    error_message = "public_addresses: want IPv4 addresses."
  }
  validation {
    condition     = length(distinct(values(var.public_addresses))) == length(var.public_addresses)
    error_message = "public_addresses: two relays have the same."
  }
}

variable "public_addresses6" {
  description = "IPv6 addresses of relays by name, on the relays' own interfaces: for DNS, certificates and the firewalls. Behind the dmz the cluster speaks IPv4."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for a in values(var.public_addresses6) : can(regex("^[23][0-9a-f]{3}:[0-9a-f:]+$", a)) && can(cidrhost("${a}/128", 0))])
    error_message = "public_addresses6: want global IPv6 addresses (2000::/3) in lower case."
  }
  validation {
    condition     = length(distinct([for a in values(var.public_addresses6) : try(cidrhost("${a}/128", 0), a)])) == length(var.public_addresses6)
    error_message = "public_addresses6: two relays have the same."
  }
}

variable "dns_zone" {
  description = <<-T
    Zone that the relays themselves answer for, as their own name servers: it names the
    relays that are fit, and no other. The MX of the domain leads there. name is below
    the domain, names are further ones below it for clients, contact is a mail address,
    ttl in seconds. Null: they answer nothing, and port 53 is closed.
  T
  type = object({
    name    = string
    names   = optional(list(string), [])
    contact = optional(string, "")
    ttl     = optional(number, 30)
  })
  default = null

  validation {
    condition     = var.dns_zone == null || try(endswith(var.dns_zone.name, ".${var.domain}") && length(var.dns_zone.name) <= 220 && can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9-]+$", var.dns_zone.name)) && var.dns_zone.name != "mail.${var.domain}", false)
    error_message = "dns_zone: name is a host name in lower case below the domain, such as mx.example.com, and not that of the clients, mail."
  }
  validation {
    condition     = try(alltrue([for n in var.dns_zone.names : endswith(n, ".${var.dns_zone.name}") && can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z0-9-]+$", n))]), var.dns_zone == null)
    error_message = "dns_zone: names are host names in lower case below its name."
  }
  validation {
    condition     = try(var.dns_zone.ttl >= 1 && var.dns_zone.ttl <= 86400 && floor(var.dns_zone.ttl) == var.dns_zone.ttl && can(regex("^$|^[A-Za-z0-9._+-]+@[a-z0-9.-]+$", var.dns_zone.contact)), var.dns_zone == null)
    error_message = "dns_zone: ttl is 1 to 86400, and contact a mail address."
  }
}

variable "dns_ttl" {
  description = "Time to live of the DNS records, in seconds."
  type        = number
  default     = 300
  nullable    = false

  validation {
    condition     = var.dns_ttl >= 30 && var.dns_ttl <= 86400 && floor(var.dns_ttl) == var.dns_ttl
    error_message = "dns_ttl: want 30 to 86400."
  }
}

variable "state_dir" {
  description = "Directory of a node's state on its machine; {tier} and {node} stand for those."
  type        = string
  default     = "/var/lib/postern/{tier}"
  nullable    = false

  validation {
    condition     = can(regex("^(/([A-Za-z0-9_.-]|\\{tier\\}|\\{node\\})+)+$", var.state_dir)) && length(var.state_dir) <= 80 && !contains(split("/", var.state_dir), "..")
    error_message = "state_dir: want an absolute path of at most 80 letters, digits, dots, hyphens and underscores, {tier} and {node}, without a part of two dots."
  }
}

variable "operator_dir" {
  description = "Directory on the operators' machine with ca.pem and the certificate of role admin, admin.pem and admin-key.pem."
  type        = string
  default     = "/etc/postern/operator"
  nullable    = false

  validation {
    condition     = can(regex("^(/[A-Za-z0-9_.-]+)+$", var.operator_dir)) && length(var.operator_dir) <= 80 && !contains(split("/", var.operator_dir), "..")
    error_message = "operator_dir: want an absolute path of at most 80 letters, digits, dots, hyphens and underscores, without a part of two dots."
  }
}

variable "options" {
  description = "Further options of the nodes' configuration files, by tier: maps of the form of the file, merged at the first level of each section."
  type        = any
  default     = {}
  nullable    = false

  validation {
    condition     = can(keys(var.options)) && alltrue([for k in try(keys(var.options), []) : contains(["relay", "backend", "witness"], k)])
    error_message = "options: want a map with the keys relay, backend, witness."
  }
  validation {
    condition = alltrue(flatten([for sections in try(values(var.options), []) : can(keys(sections)) ? [for name, v in sections :
    can(keys(v)) && can(regex("^[a-z][a-z0-9_]*$", name)) && alltrue([for k in try(keys(v), []) : can(regex("^[a-z][a-z0-9_]*$", k))])] : [false]]))
    error_message = "options: want sections with their options below them, such as relay = { smtp = { max_size = \"10MB\" } }, names in lower case."
  }
  validation {
    condition = alltrue(flatten([for sections in try(values(var.options), []) : [for name, v in try(tomap({ for k, x in sections : k => try(keys(x), []) }), {}) :
      length(setintersection(v, lookup({
        gossip     = ["listen", "join"]
        admin      = ["listen"]
        metrics    = ["listen"]
        smtp       = ["listen"]
        submission = ["listen", "tls_listen"]
        imap       = ["listen", "tls_listen"]
        pop3       = ["listen", "tls_listen"]
        raft       = ["listen"]
        serve      = ["lmtp", "imap", "pop3"]
        dns        = ["servers", "serve"]
        directory  = ["urls", "base", "default_domain", "schema", "bind_dn", "password", "password_file", "start_tls", "ca", "master"]
    }, name, []))) == 0]]))
    error_message = "options: addresses, ports, the directory and the resolvers have variables of their own, from which the firewalls are made too; a password has no place here."
  }
}
