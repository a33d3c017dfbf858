variable "tier" {
  description = "relay, backend or witness."
  type        = string
  nullable    = false

  validation {
    condition     = contains(["relay", "backend", "witness"], var.tier)
    error_message = "tier: want relay, backend or witness."
  }
}

variable "release" {
  description = "Version that the tier runs afterwards, as its programs say it."
  type        = string
  nullable    = false
}

variable "nodes" {
  description = "Names of the tier's nodes."
  type        = list(string)
  nullable    = false
}

variable "configs" {
  description = "Configuration files of the nodes, or anything that changes with them."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "tool" {
  description = "Path of postern, of the release."
  type        = string
  nullable    = false
}

variable "cluster" {
  description = "Arguments of postern that name the cluster: --dir, or --node with --cert, --key and --ca."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.cluster) > 0 && alltrue([for a in var.cluster : can(regex("^[A-Za-z0-9_./:,=@-]+$", a))])
    error_message = "cluster: want arguments without spaces and quotes."
  }
}

variable "enter" {
  description = "Command before postern, such as one that enters a network: nsenter --net=FILE."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for a in var.enter : can(regex("^[A-Za-z0-9_./:,=@-]+$", a))])
    error_message = "enter: want arguments without spaces and quotes."
  }
}

variable "replace" {
  description = "Command that stops the program of node $POSTERN_NODE, puts that of release $POSTERN_TO and the new configuration in its place and starts it."
  type        = string
  nullable    = false
}

variable "refresh" {
  description = "Command that puts the new configuration of node $POSTERN_NODE in its place, before the node reloads it. Empty: configurations change with releases only."
  type        = string
  default     = ""
  nullable    = false
}

variable "environment" {
  description = "Environment of these commands."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "drain_timeout" {
  description = "Time for the sessions of a relay to end."
  type        = string
  default     = "30s"
  nullable    = false
}

variable "probe_timeout" {
  description = "Time for a replaced node to be ready, caught up and to answer."
  type        = string
  default     = "60s"
  nullable    = false
}
