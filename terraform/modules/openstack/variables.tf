variable "plan" {
  description = "The outputs of the topology module: plan = module.topology. Its sites are availability zones by their names; nodes of one site are kept on different hypervisors."
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
    condition     = can(var.plan.zones) && can(var.plan.nodes)
    error_message = "plan: want the outputs of the topology module."
  }
}

variable "images" {
  description = "Image of each tier, by id: a Debian with the package postern-TIER and nftables."
  type        = object({ relay = string, backend = string, witness = string })
  nullable    = false
}

variable "flavors" {
  description = "Flavor of each tier, by name."
  type        = object({ relay = string, backend = string, witness = string })
  nullable    = false
}

variable "disks" {
  description = "Volume for the state of each tier: size in GB, and type. It stays when the server goes."
  type = object({
    relay   = optional(object({ size = optional(number, 20), type = optional(string) }), {})
    backend = optional(object({ size = optional(number, 500), type = optional(string) }), {})
    witness = optional(object({ size = optional(number, 20), type = optional(string) }), {})
  })
  default  = {}
  nullable = false
}

variable "ssh_keys" {
  description = "Public keys of the operators, who come as the user operator."
  type        = list(string)
  nullable    = false
}

variable "external_network" {
  description = "Name of the network that leads to the Internet."
  type        = string
  nullable    = false
}

variable "public_addresses" {
  description = "Floating IPs of relays, by name: the addresses that the topology module is told."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "dns_zone_id" {
  description = "Designate zone of the mail domain. Empty: the records are made elsewhere, from the output operator."
  type        = string
  default     = ""
  nullable    = false
}
