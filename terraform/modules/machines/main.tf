# What a machine is told at its first boot, and how the operators' machine completes
# it. It makes nothing; the modules of clouds and others pass it on.
locals {
  nodes = var.plan.nodes

  # The image has the package of the node's tier: machines in the data zone reach
  # nothing that they could fetch it from.
  user_data = { for name, n in local.nodes : name => "#cloud-config\n${yamlencode(merge({
    fqdn              = n.hostname
    prefer_fqdn       = true
    ssh_pwauth        = false
    disable_root      = true
    users             = [{ name = var.ssh_user, shell = "/bin/bash", lock_passwd = true, sudo = "ALL=(ALL) NOPASSWD:ALL", ssh_authorized_keys = var.ssh_keys }]
    package_update    = false
    package_upgrade   = false
    preserve_hostname = false
    write_files = [
      { path = "/etc/postern/${n.tier}.yaml", owner = "root:postern", permissions = "0640", content = var.plan.configs[name] },
      { path = "/etc/nftables.conf", owner = "root:root", permissions = "0644", content = "#!/usr/sbin/nft -f\n${var.plan.firewalls.machine[n.host]}" },
    ]
    runcmd = concat(
      [["systemctl", "enable", "--now", "nftables.service"]],
      contains(keys(var.data_device), n.tier) ? [["systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/postern-${n.tier}.conf"]] : [],
    )
    }, { for k, v in {
      fs_setup = [{ label = "postern", filesystem = "ext4", device = lookup(var.data_device, n.tier, ""), partition = "none", overwrite = false }]
      mounts   = [["LABEL=postern", n.dir, "ext4", "defaults,noatime,nodev,nosuid,noexec", "0", "2"]]
  } : k => v if contains(keys(var.data_device), n.tier) }))}" }

  # The sockets of a relay's roles, and of the zone that it answers for.
  sockets = { for name, n in local.nodes : name => concat(
    contains(n.roles, "mx") ? ["postern-mx.socket"] : [],
    contains(n.roles, "submit") ? ["postern-submit.socket"] : [],
    can(n.services.dns) ? ["postern-dns.socket"] : [],
  contains(n.roles, "proxy") ? ["postern-proxy.socket"] : []) }

  complete = { for name, n in local.nodes : name => templatefile("${path.module}/complete.sh.tftpl", {
    node    = name
    tier    = n.tier
    address = n.address
    dir     = n.dir
    user    = var.ssh_user
    roles   = join(",", var.plan.certificates[name].node.roles)
    public  = var.plan.certificates[name].public
    sockets = local.sockets[name]
    ids     = flatten([for p in values(var.plan.pairs) : [for m in values(p.members) : m.id if m.node == name]])
    config  = var.plan.configs[name]
    rules   = var.plan.firewalls.machine[n.host]
  }) }
}
