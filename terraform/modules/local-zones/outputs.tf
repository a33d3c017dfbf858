output "home" {
  description = "Changes when the folder for the state is made anew."
  value       = terraform_data.home.id
}

output "ground" {
  description = "What module local-node needs: the script, its environment, and an id that changes when the networks are made anew."
  value       = { script = local.script, environment = local.environment, id = terraform_data.zones.id }
}

output "hosts" {
  description = "Ids of the hosts, which change when one is made anew."
  value       = { for name, h in terraform_data.host : name => h.id }
}

output "firewalls" {
  description = "Ids of the two firewalls; whoever needs their rules waits for them."
  value       = { for name, f in terraform_data.firewall : name => f.id }
}
