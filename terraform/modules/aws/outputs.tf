output "instances" {
  description = "Instance of every node: id, address in its zone, public address of a relay."
  value = { for name, i in aws_instance.node : name => {
    id      = i.id
    address = i.private_ip
    public  = try(aws_eip_association.relay[name].public_ip, "")
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
