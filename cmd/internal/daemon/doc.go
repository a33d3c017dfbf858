/*
Package daemon is the frame that the three daemons share: flags and
configuration, the log, certificates, the collector's settings, gossip, the
admin API with metrics and health, signals, and the order of start and stop.

	Main -> configuration -> Program.Start: the start-up list, calls Go and OnStop
	     -> gossip, admin API            -> ready
	     <- SIGTERM: not ready, the OnStop list reversed, services, gossip, admin API

What it keeps true:

  - What was started last is stopped first, and one step at a time. The whole
    stop has Node.StopWithin; then the process ends all the same, as it may at
    any moment: nothing that was promised depends on a clean stop.
  - A service that ends by itself ends the daemon. Fatal ends it at once, without
    any of the above: it is for a disk that fails, where going on could lie.
  - A reload is taken whole or not at all.
  - Listen takes a socket that the service manager has opened on the address
    before it opens one, so that no daemon needs a privilege (sd_listen_fds(3)).
    The manager is told READY, STOPPING and, when it wants signs of life, one each
    time that the node has answered itself on its admin socket.

Exit status: 0 after a stop that was asked for, 1 when the daemon cannot go on,
2 when flags or configuration are wrong.

Package daemon knows no mail, so that the witness can use it.
*/
package daemon
