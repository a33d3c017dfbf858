variable "ground" {
  description = "Where the node stands: the output ground of module local-zones."
  type        = object({ script = string, environment = map(string), id = string })
  nullable    = false
}

variable "name" {
  description = "Name of the node."
  type        = string
  nullable    = false
}

variable "node" {
  description = "An element of the output nodes of the topology module."
  type        = object({ tier = string, zone = string, address = string, address6 = optional(string, ""), dir = string })
  nullable    = false

  validation {
    condition     = contains(["relay", "backend", "witness"], var.node.tier) && contains(["dmz", "data"], var.node.zone)
    error_message = "node: tier is relay, backend or witness, zone is dmz or data."
  }
}

variable "config" {
  description = "Configuration file: an element of the output configs of the topology module."
  type        = string
  nullable    = false
}

variable "rules" {
  description = "nftables of the machine: an element of the output firewalls of the topology module, machine."
  type        = string
  nullable    = false
}

variable "certificates" {
  description = "An element of the output certificates of the topology module."
  type = object({
    node   = object({ roles = list(string) })
    public = object({ dns_names = list(string), addresses = list(string) })
  })
  nullable = false
}

variable "ids" {
  description = "Ids of the replicas that the node holds."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "operator_dir" {
  description = "Folder with the CA (ca/, ca.pem) and the key of gossip (gossip.key)."
  type        = string
  nullable    = false
}

variable "programs" {
  description = "Folder with the programs that the node is first started with. Afterwards module rollout replaces them."
  type        = string
  nullable    = false
}
