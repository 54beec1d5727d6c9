// Command coredns is CoreDNS with the plugins that a cluster's DNS needs, and no others: it builds in a fraction of the time.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// In the order of CoreDNS' own plugin.cfg: a query passes them in this order.
	dnsserver.Directives = []string{"health", "ready", "log", "errors", "cache", "kubernetes"}
	coremain.Run()
}
