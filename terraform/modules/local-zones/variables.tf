variable "prefix" {
  description = "Begins the name of every namespace, PREFIX-relay1 and so on."
  type        = string
  default     = "postern"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{0,15}$", var.prefix))
    error_message = "prefix: want a letter in lower case and up to 15 letters or digits."
  }
}

variable "state_dir" {
  description = "Folder on this host for everything's state. It is removed in the end."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^/[A-Za-z0-9_./-]+$", var.state_dir)) && length(var.state_dir) <= 60 && !strcontains("${var.state_dir}/", "/../")
    error_message = "state_dir: want an absolute path of at most 60 letters, digits, dots, hyphens and underscores, without a part of two dots."
  }
}

variable "zones" {
  description = "Networks of the site: an element of the output zones of the topology module."
  type = object({
    networks = map(string)
    gateways = map(string)
    inner    = string
  })
  nullable = false
}

variable "internet" {
  description = "Network that stands for the Internet. Its first address is the outer firewall's."
  type        = string
  default     = "192.0.2.0/24"
  nullable    = false

  validation {
    condition     = can(cidrhost(var.internet, 1)) && endswith(var.internet, "/24")
    error_message = "internet: want an IPv4 network of /24."
  }
}

variable "internet6" {
  description = "IPv6 network of the same, /64, and dmz6 that of the relays. Empty: IPv4 alone. Zones behind the inner firewall have none."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.internet6 == "" || (can(cidrhost(var.internet6, 1)) && endswith(var.internet6, "::/64"))
    error_message = "internet6: want an IPv6 network of /64."
  }
}

variable "dmz6" {
  description = "IPv6 network of the dmz, /64."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = (var.dmz6 == "") == (var.internet6 == "") && (var.dmz6 == "" || (can(cidrhost(var.dmz6, 1)) && endswith(var.dmz6, "::/64")))
    error_message = "dmz6: want an IPv6 network of /64, with internet6."
  }
}

variable "firewalls" {
  description = "nftables of the firewalls outer and inner: the output firewalls of the topology module, zone."
  type        = map(string)
  nullable    = false

  validation {
    condition     = toset(keys(var.firewalls)) == toset(["outer", "inner"])
    error_message = "firewalls: want outer and inner."
  }
}

variable "hosts" {
  description = "Hosts besides the nodes: their zone (internet, dmz, data or mgmt), address, and perhaps IPv6 address."
  type        = map(object({ zone = string, address = string, address6 = optional(string, "") }))
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for n, h in var.hosts : contains(["internet", "dmz", "data", "mgmt"], h.zone) && can(cidrhost("${h.address}/32", 0)) && can(regex("^[a-z][a-z0-9-]{0,30}$", n)) && !contains(["inner", "outer"], n)])
    error_message = "hosts: zone is internet, dmz, data or mgmt, address an IPv4 address; inner and outer are the firewalls."
  }
}
