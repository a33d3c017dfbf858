output "nodes" {
  description = "Every node: its tier, address, version and namespace."
  value       = { for name, n in module.topology.nodes : name => { tier = n.tier, address = n.address, version = n.version, namespace = "${var.prefix}-${name}" } }
}

output "releases" {
  description = "What each tier runs."
  value       = { relay = module.relays.release, backend = module.backends.release, witness = module.witnesses.release }
}

output "try" {
  description = "Commands to begin with."
  value       = <<-T
    ${join(" ", local.enter["management"])} ${local.tool} status ${join(" ", module.topology.tool.arguments)}
    ${local.tool} status --dir ${var.state_dir}
    ${join(" ", local.enter["internet"])} curl -sS --cacert ${local.operator}/ca.pem -u u0001:secret --resolve mail.${var.domain}:993:${module.topology.nodes["relay1"].address} imaps://mail.${var.domain}/INBOX
    ${local.tool} probe --matrix ${var.state_dir}/probe.json --enter 'exec nsenter --net="/run/netns/${var.prefix}-$POSTERN_FROM" "$@"'
    ${join(" ", local.enter["management"])} ${local.tool} drill run stop-serving transfer --cluster ${var.state_dir}/drills.yaml --for 20s --html drill.html
  T
}
