variable "plan" {
  description = "The outputs of the topology module, as a whole: plan = module.topology."
  type        = any
  nullable    = false

  validation {
    condition     = can(var.plan.nodes) && can(var.plan.configs) && can(var.plan.firewalls.machine)
    error_message = "plan: want the outputs of the topology module."
  }
}

variable "ssh_keys" {
  description = "Public keys of the operators, as in authorized_keys."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.ssh_keys) > 0 && alltrue([for k in var.ssh_keys : can(regex("^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\\n]*)?$", k))])
    error_message = "ssh_keys: want public keys, such as ssh-ed25519 AAAA... name."
  }
}

variable "ssh_user" {
  description = "User of the operators on the machines; it may use sudo without a password."
  type        = string
  default     = "operator"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z_][a-z0-9_-]{0,31}$", var.ssh_user))
    error_message = "ssh_user: want the name of a user."
  }
}

variable "data_device" {
  description = "Block device for the state of a node, by tier, as it is called at the first boot. It is formatted and labelled when it has no filesystem, and never otherwise. A tier without one keeps its state on the disk of the system."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for t, d in var.data_device : contains(["relay", "backend", "witness"], t) && can(regex("^/dev/[A-Za-z0-9/_-]+$", d))])
    error_message = "data_device: want the names of devices by relay, backend, witness."
  }
}
