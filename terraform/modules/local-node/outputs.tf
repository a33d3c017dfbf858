output "steward" {
  description = "For module rollout: the commands for the node that POSTERN_NODE names, on this host, and their environment, to which BIN is added, the folder of the release's programs. config changes when the node is to have another configuration."
  value = {
    replace     = "exec env NAME=\"$POSTERN_NODE\" TIER=\"$POSTERN_TIER\" DIR=\"$STATE/$POSTERN_NODE\" IDS= sh \"$NODE_SCRIPT\" replace"
    refresh     = "exec env NAME=\"$POSTERN_NODE\" DIR=\"$STATE/$POSTERN_NODE\" sh \"$NODE_SCRIPT\" refresh"
    environment = { PREFIX = var.ground.environment.PREFIX, STATE = var.ground.environment.STATE, ZONES = var.ground.script, NODE_SCRIPT = local.script }
    process     = terraform_data.process.id
    config      = terraform_data.config.id
  }
}
