# A host that is replaced loses what runs on it; nothing below is a trigger that
# does not have to be one.
locals {
  script = "${abspath(path.module)}/zones.sh"
  environment = {
    PREFIX   = var.prefix
    STATE    = var.state_dir
    INTERNET = var.internet
    WORLD_GW = cidrhost(var.internet, 1)
    DMZ      = var.zones.networks.dmz
    DMZ_GW   = var.zones.gateways.dmz
    DATA     = var.zones.networks.data
    DATA_GW  = var.zones.gateways.data
    MGMT     = var.zones.networks.mgmt
    MGMT_GW  = var.zones.gateways.mgmt
    INNER    = var.zones.inner
    WORLD6   = var.internet6 == "" ? "" : cidrhost(var.internet6, 1)
    DMZ6     = var.dmz6 == "" ? "" : cidrhost(var.dmz6, 1)
  }
}

resource "terraform_data" "home" {
  input            = { script = local.script, environment = { PREFIX = var.prefix, STATE = var.state_dir } }
  triggers_replace = [var.prefix, var.state_dir]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" home"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
  provisioner "local-exec" {
    when        = destroy
    command     = "exec sh \"$SCRIPT\" unhome"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
}

resource "terraform_data" "zones" {
  input            = { script = local.script, environment = local.environment }
  triggers_replace = [terraform_data.home.id, local.environment]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" up"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
  provisioner "local-exec" {
    when        = destroy
    command     = "exec sh \"$SCRIPT\" down"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
}

# New rules are loaded in one step; connections that are open stay.
resource "terraform_data" "firewall" {
  for_each         = var.firewalls
  triggers_replace = [terraform_data.zones.id, sha256(each.value)]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" firewall \"$NAME\""
    environment = merge(local.environment, { SCRIPT = local.script, NAME = each.key, RULES = each.value })
  }
}

resource "terraform_data" "host" {
  for_each = var.hosts
  input = { script = local.script, environment = merge(local.environment, {
    NAME = each.key, ZONE = each.value.zone, ADDRESS = each.value.address, ADDRESS6 = each.value.address6, PORT = "h${substr(sha256(each.key), 0, 10)}"
  }) }
  triggers_replace = [terraform_data.zones.id, each.value]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" host"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
  provisioner "local-exec" {
    when        = destroy
    command     = "exec sh \"$SCRIPT\" unhost"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
}
