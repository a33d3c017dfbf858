# A node is four things that change apart. The version is in none of them: a change
# would replace every node of a tier at once. Module rollout goes over them one by one.
locals {
  script = "${abspath(path.module)}/node.sh"
  environment = merge(var.ground.environment, {
    ZONES    = var.ground.script
    NAME     = var.name
    TIER     = var.node.tier
    ZONE     = var.node.zone
    ADDRESS  = var.node.address
    ADDRESS6 = var.node.address6
    DIR      = var.node.dir
    PORT     = "n${substr(sha256(var.name), 0, 10)}"
    IDS      = join(" ", var.ids)
    CA       = var.operator_dir
  })
  # Where the node stands; a change makes its machine anew. Its directory stays.
  place = { ground = var.ground.id, tier = var.node.tier, zone = var.node.zone, address = var.node.address, address6 = var.node.address6, dir = var.node.dir }
}

resource "terraform_data" "machine" {
  input            = { script = var.ground.script, environment = local.environment }
  triggers_replace = local.place

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

resource "terraform_data" "firewall" {
  triggers_replace = [terraform_data.machine.id, sha256(var.rules)]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" rules \"$NAME\""
    environment = merge(local.environment, { SCRIPT = var.ground.script, RULES = var.rules })
  }
}

resource "terraform_data" "certificates" {
  triggers_replace = [terraform_data.machine.id, sha256(jsonencode(var.certificates))]

  provisioner "local-exec" {
    command = "exec sh \"$SCRIPT\" certificates"
    environment = merge(local.environment, {
      SCRIPT           = local.script
      TOOL             = "${var.programs}/postern"
      ROLES            = join(",", var.certificates.node.roles)
      PUBLIC_NAMES     = join(",", var.certificates.public.dns_names)
      PUBLIC_ADDRESSES = join(",", var.certificates.public.addresses)
    })
  }
}

resource "terraform_data" "config" {
  triggers_replace = [terraform_data.machine.id, sha256(var.config)]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" config"
    environment = merge(local.environment, { SCRIPT = local.script, CONFIG = var.config })
  }
}

resource "terraform_data" "process" {
  input            = { script = local.script, environment = local.environment }
  triggers_replace = [terraform_data.machine.id]
  depends_on       = [terraform_data.firewall, terraform_data.certificates, terraform_data.config]

  provisioner "local-exec" {
    command     = "exec sh \"$SCRIPT\" begin"
    environment = merge(self.input.environment, { SCRIPT = self.input.script, BIN = var.programs })
  }
  provisioner "local-exec" {
    when        = destroy
    command     = "exec sh \"$SCRIPT\" end"
    environment = merge(self.input.environment, { SCRIPT = self.input.script })
  }
}
