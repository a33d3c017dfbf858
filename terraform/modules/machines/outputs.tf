output "user_data" {
  description = "cloud-init of each node's machine: name, configuration, packet filter, disk. It holds no secret."
  value       = local.user_data
}

output "complete" {
  description = "For each node, a script for the operators' machine: it makes the certificates, puts them, the configuration and the packet filter in place, and starts the node or has it read what is new."
  value       = local.complete
}

output "operator" {
  description = "Files for the operators' machine: cluster.json (postern --dir), probe.json (postern probe), the arguments that name the nodes, and the lines of the zone."
  value = {
    cluster_json = jsonencode(var.plan.tool.file)
    probe_json   = jsonencode(var.plan.probe)
    arguments    = var.plan.tool.arguments
    zone_file    = var.plan.dns.zone_file
    directory    = var.plan.directory
    pairs        = var.plan.pairs
  }
}

output "security" {
  description = "Rules of security groups from the ports matrix, in and out, by a name of their own: tier (the group that a rule belongs to), protocol, port, and peer, a tier, or cidr, a network. What such rules cannot say (members of the same pair only, the Internet without our own networks) the packet filter in user_data says."
  value       = local.security
}
