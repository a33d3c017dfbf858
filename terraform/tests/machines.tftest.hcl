# What the machines of a cloud are told, from a plan over three sites.

variables {
  ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJbUZtV0ZsYXRlT2ZBS2V5Rm9yVGVzdHNPbmx5 test"]
}

run "plan" {
  module { source = "./modules/topology" }
  variables {
    cluster   = "example"
    domain    = "example.com"
    versions  = { relay = "0.2.0", backend = "0.2.0", witness = "0.2.0" }
    directory = { base = "o=isp" }
    relays    = 2
    pairs     = 2
    sites     = [{ name = "a", cidr = "10.77.0.0/20" }, { name = "b", cidr = "10.77.16.0/20" }, { name = "c", cidr = "10.77.32.0/20" }]
    ssh_port  = 22

    public_addresses = { relay1 = "203.0.113.1" }
    dns_zone         = { name = "mx.example.com" }
  }

  assert {
    condition = (strcontains(output.firewalls.machine.relay1, "ip saddr != { 10.77.0.0/20, 10.77.16.0/20, 10.77.32.0/20 } ip daddr { 10.77.1.11, 203.0.113.1 } tcp dport { 25 } accept") &&
      strcontains(output.firewalls.machine.relay1, "ip saddr { 10.77.1.11, 203.0.113.1 } ip daddr != { 10.77.0.0/20, 10.77.16.0/20, 10.77.32.0/20 } tcp dport { 25 } accept") &&
    !strcontains(output.firewalls.machine.relay2, "203.0.113.1"))
    error_message = "a relay with a public address of its own: ${output.firewalls.machine.relay1}"
  }
}

# In assertions var.plan stands for run.plan: OpenTofu 1.12 takes no run beside output.
run "told" {
  module { source = "./modules/machines" }
  variables {
    plan        = run.plan
    data_device = { backend = "/dev/vdb" }
  }

  assert {
    condition     = keys(output.user_data) == keys(var.plan.nodes) && keys(output.complete) == keys(var.plan.nodes)
    error_message = "nodes: ${jsonencode(keys(output.user_data))}"
  }
  assert {
    condition = alltrue([for name, text in output.user_data : startswith(text, "#cloud-config\n") &&
      yamldecode(text).fqdn == "${name}.example.com" &&
      yamldecode(text).write_files[0].content == var.plan.configs[name] &&
    endswith(yamldecode(text).write_files[1].content, var.plan.firewalls.machine[name])])
    error_message = "cloud-init: ${output.user_data.relay1}"
  }
  assert {
    condition = ([for name, text in output.user_data : name if can(yamldecode(text).mounts)] == ["pair1-a", "pair1-b", "pair2-a", "pair2-b"] &&
    alltrue([for name, text in output.user_data : try(!yamldecode(text).fs_setup[0].overwrite, true)]))
    error_message = "only backends have a disk of their own here, and none is formatted over"
  }
  assert {
    condition     = alltrue([for text in concat(values(output.user_data), values(output.complete)) : !strcontains(text, "PRIVATE KEY")])
    error_message = "a secret"
  }
  assert {
    condition     = [for name, text in output.complete : name if strcontains(text, "postern-dns.socket")] == ["relay1", "relay2"] && output.security.in["relay udp/53 0.0.0.0/0"].id == "zone" && output.security.in["relay tcp/53 0.0.0.0/0"].id == "zone"
    error_message = "the zone of the relays: ${output.complete.relay1}"
  }

  # The rules of security groups are the rows of the matrix, no more and no fewer.
  assert {
    condition = toset([for r in values(output.security.in) : "${r.tier} ${r.protocol}/${r.port} ${coalesce(r.peer, r.cidr)}"]) == toset(flatten([for r in var.plan.rules : [for p in r.protocols : [for port in r.ports :
      [for other in(contains(["relay", "backend", "witness"], r.from) ? [r.from] : r.from == "internet" ? ["0.0.0.0/0"] : var.plan.groups[r.from]) : "${r.to} ${p}/${port} ${other}"]
    ]] if contains(["relay", "backend", "witness"], r.to)]))
    error_message = "in: ${jsonencode(keys(output.security.in))}"
  }
  assert {
    condition     = alltrue([for r in values(output.security.in) : (r.peer == null) != (r.cidr == null)]) && alltrue([for r in values(output.security.out) : (r.peer == null) != (r.cidr == null)])
    error_message = "a rule has a tier or a network on the other side"
  }
  assert {
    condition     = length([for r in values(output.security.in) : r if r.cidr == "0.0.0.0/0" && r.tier != "relay"]) == 0 && length([for r in values(output.security.out) : r if r.cidr == "0.0.0.0/0" && r.tier != "relay"]) == 0
    error_message = "the Internet and a store talk to each other"
  }
}

run "device" {
  command = plan
  module { source = "./modules/machines" }
  variables {
    plan        = run.plan
    data_device = { backend = "vdb" }
  }
  expect_failures = [var.data_device]
}

run "no_keys" {
  command = plan
  module { source = "./modules/machines" }
  variables {
    plan     = run.plan
    ssh_keys = []
  }
  expect_failures = [var.ssh_keys]
}
