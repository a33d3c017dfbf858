variable "relays" {
  description = "Number of relays."
  type        = number
  default     = 2
  nullable    = false
}

variable "pairs" {
  description = "Number of pairs."
  type        = number
  default     = 1
  nullable    = false
}

variable "versions" {
  description = "Version of each tier. A version that binaries does not name is built from the sources around this folder, with Go."
  type        = object({ relay = string, backend = string, witness = string })
  default     = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
  nullable    = false
}

variable "binaries" {
  description = "Folders with the four programs, by the version that they say."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for d in values(var.binaries) : startswith(d, "/")])
    error_message = "binaries: want absolute paths."
  }
}

variable "domain" {
  description = "Mail domain."
  type        = string
  default     = "postern.test"
  nullable    = false
}

variable "users" {
  description = "Number of people in the directory: u0001, u0002 ... with the password secret."
  type        = number
  default     = 8
  nullable    = false
}

variable "prefix" {
  description = "Begins the names of the namespaces."
  type        = string
  default     = "postern"
  nullable    = false
}

variable "state_dir" {
  description = "Folder for everything's state, made and removed by this example."
  type        = string
  default     = "/var/lib/postern-local"
  nullable    = false
}

variable "options" {
  description = "Further options of the nodes, as in the topology module."
  type        = any
  default     = {}
  nullable    = false
}

variable "ipv6" {
  description = "Give the relays IPv6 addresses as well, where clients and other servers reach them."
  type        = bool
  default     = true
  nullable    = false
}

variable "dns_zone" {
  description = "Zone that the relays answer for, as in the topology module, such as { name = \"mx.postern.test\" }. Null: none, and port 53 is closed."
  type = object({
    name    = string
    names   = optional(list(string), [])
    contact = optional(string, "")
    ttl     = optional(number, 30)
  })
  default = null
}
