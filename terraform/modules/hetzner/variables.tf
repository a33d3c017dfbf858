variable "plan" {
  description = "The outputs of the topology module: plan = module.topology. Its sites are locations of one network zone, by their names, such as fsn1."
  type        = any
  nullable    = false

  validation {
    condition     = alltrue([for name, n in try(var.plan.nodes, {}) : n.host == name])
    error_message = "plan: the machines exist already (hosts); a cloud gives every node one of its own."
  }
  validation {
    condition     = alltrue([for n in try(values(var.plan.nodes), []) : n.address6 == ""])
    error_message = "plan: this module's networks are IPv4 only; public_addresses6 would be published and lead nowhere."
  }
  validation {
    condition     = alltrue([for s in keys(try(var.plan.zones, { none-at-all = {} })) : can(regex("^[a-z]{2,4}[0-9]?$", s))])
    error_message = "plan: want the outputs of the topology module, with locations as sites."
  }
}

variable "cidr" {
  description = "Range of the private network, which holds the networks of all sites."
  type        = string
  default     = "10.77.0.0/16"
  nullable    = false

  validation {
    condition = can(cidrhost(var.cidr, 0)) && alltrue([for z in values(try(var.plan.zones, {})) :
      try(tonumber(split("/", z.cidr)[1]) >= tonumber(split("/", var.cidr)[1]) && cidrhost("${split("/", z.cidr)[0]}/${split("/", var.cidr)[1]}", 0) == cidrhost(var.cidr, 0), false)
    ])
    error_message = "cidr: want an IPv4 network that holds the networks of all sites, such as 10.77.0.0/16 with sites of /20."
  }
}

variable "network_zone" {
  description = "Network zone that the locations belong to."
  type        = string
  default     = "eu-central"
  nullable    = false
}

variable "images" {
  description = "Snapshot or image of each tier, by id: a Debian with the package postern-TIER and nftables."
  type        = object({ relay = string, backend = string, witness = string })
  nullable    = false
}

variable "server_types" {
  description = "Server type of each tier. State is on the server's own disk: a replica's copy is on another server."
  type = object({
    relay   = optional(string, "cpx31")
    backend = optional(string, "ccx33")
    witness = optional(string, "cpx11")
  })
  default  = {}
  nullable = false
}

variable "ssh_keys" {
  description = "Public keys of the operators, who come as the user operator."
  type        = list(string)
  nullable    = false
}

variable "public_addresses" {
  description = "Ids of the primary IPs of relays, by name. The addresses themselves are told to the topology module."
  type        = map(number)
  default     = {}
  nullable    = false
}

variable "zone" {
  description = "DNS zone of the mail domain. Empty: the records are made elsewhere, from the output operator."
  type        = string
  default     = ""
  nullable    = false
}

variable "protect" {
  description = "Refuse to delete or rebuild backends and witnesses, whoever asks."
  type        = bool
  default     = true
  nullable    = false
}
