output "servers" {
  description = "Server of every node: id, address in its zone, public address of a relay."
  value = { for name, s in openstack_compute_instance_v2.node : name => {
    id      = s.id
    address = local.nodes[name].address
    public  = lookup(var.public_addresses, name, "")
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
