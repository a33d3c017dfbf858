variable "plan" {
  description = "The outputs of the topology module: plan = module.topology. Its sites are availability zones of one region, by their names, such as eu-central-1a."
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
    condition     = alltrue([for s in keys(try(var.plan.zones, { none = {} })) : can(regex("^[a-z]{2}(-[a-z]+)+-[0-9][a-z]$", s))])
    error_message = "plan: want the outputs of the topology module, with availability zones as sites."
  }
}

variable "cidr" {
  description = "Network of the VPC, which holds those of all sites."
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

variable "images" {
  description = "AMI of each tier: a Debian with the package postern-TIER and nftables."
  type        = object({ relay = string, backend = string, witness = string })
  nullable    = false

  validation {
    condition     = alltrue([for i in values(var.images) : can(regex("^ami-[0-9a-f]+$", i))])
    error_message = "images: want ids of AMIs."
  }
}

variable "instance_types" {
  description = "Instance type of each tier."
  type = object({
    relay   = optional(string, "m7i.large")
    backend = optional(string, "m7i.xlarge")
    witness = optional(string, "t3.small")
  })
  default  = {}
  nullable = false
}

variable "disks" {
  description = "Volume (gp3) for the state of each tier: size in GB, iops, throughput in MB/s. It stays when the instance goes."
  type = object({
    relay   = optional(object({ size = optional(number, 20), iops = optional(number, 3000), throughput = optional(number, 125) }), {})
    backend = optional(object({ size = optional(number, 500), iops = optional(number, 6000), throughput = optional(number, 250) }), {})
    witness = optional(object({ size = optional(number, 20), iops = optional(number, 3000), throughput = optional(number, 125) }), {})
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
  description = "Allocation ids of Elastic IPs of relays, by name. The addresses themselves are told to the topology module."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for i in values(var.public_addresses) : can(regex("^eipalloc-[0-9a-f]+$", i))])
    error_message = "public_addresses: want allocation ids, eipalloc-..."
  }
}

variable "zone_id" {
  description = "Route 53 zone of the mail domain. Empty: the records are made elsewhere, from the output operator."
  type        = string
  default     = ""
  nullable    = false
}

variable "protect" {
  description = "Refuse to terminate backends and witnesses, whoever asks."
  type        = bool
  default     = true
  nullable    = false
}
