output "servers" {
  description = "Server of every node: id, address in its zone, public address of a relay."
  value = { for name, s in hcloud_server.node : name => {
    id      = s.id
    address = local.nodes[name].address
    public  = local.nodes[name].tier == "relay" ? s.ipv4_address : ""
  } }
}

output "complete" {
  description = "For each node, the script that completes it from the operators' machine."
  value       = module.machines.complete
}

output "operator" {
  description = "Files for the operators' machine."
  value       = module.machines.operator
}
