# The one resource of a tier. Nothing is destroyed by replacing it: the nodes stay, and
# postern goes over them one by one, so that a failure leaves the rest as they were and
# the next apply goes on there.
resource "terraform_data" "rollout" {
  input            = { tier = var.tier, release = var.release, nodes = var.nodes }
  triggers_replace = [var.tier, var.release, var.nodes, sha256(jsonencode(var.configs))]

  provisioner "local-exec" {
    command = "exec sh \"$SCRIPT\""
    environment = merge(var.environment, {
      SCRIPT        = "${abspath(path.module)}/rollout.sh"
      TIER          = var.tier
      RELEASE       = var.release
      NODES         = join(" ", var.nodes)
      TOOL          = var.tool
      CLUSTER       = join(" ", var.cluster)
      ENTER         = join(" ", var.enter)
      REPLACE       = var.replace
      REFRESH       = var.refresh
      DRAIN_TIMEOUT = var.drain_timeout
      PROBE_TIMEOUT = var.probe_timeout
    })
  }
}
