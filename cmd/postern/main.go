/*
Command postern is the operator's tool: it runs a development cluster and asks
and steers nodes through their admin API. Its manual page is postern.1.md.
*/
package main

import (
	"os"

	"github.com/postern-mail/postern/cmd/postern/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
