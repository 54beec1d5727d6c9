/** What UMS could leave behind in a cluster and on its nodes: a list before and one after must be the same. */
import { setTimeout as sleep } from "node:timers/promises";
import { endpointSlices, type Kind, type KubernetesObject, pods, services } from "../src/platforms/kubernetes/kinds.ts";
import type { ClusterSite } from "./cluster-sites.ts";
import type { ClusterNode } from "./cluster/node.ts";

/** One line for each thing. */
export type Traces = readonly string[];

const onNode = [
  // The directories themselves stay, and a node's knowledge of who leads.
  "find /run/ums /dev/shm/ums /var/lib/ums /var/lib/containerd/ums /var/lib/kubelet/ums -mindepth 1 | grep -vE '^(/run/ums/restore|/var/lib/ums/(images|work|work/term))$' | sed 's/^/file /'",
  "nft list tables | grep -E 'ums_(forward|hold)' | sed 's/^/nft /'",
  "ip -oneline link | grep -o 'umshold[0-9b]*' | sed 's/^/link /'",
  "ip rule | grep 0x554d | sed 's/^/rule /'",
  "ip route show table all | grep umshold | sed 's/^/route /'",
  "find /sys/fs/cgroup/freezer -name freezer.state -path '*kubepods*' 2>/dev/null | xargs grep -lv THAWED 2>/dev/null | sed 's/^/frozen /'",
  "find /sys/fs/cgroup -name cgroup.freeze -path '*kubepods*' 2>/dev/null | xargs grep -l 1 2>/dev/null | sed 's/^/frozen /'",
  "for each in /var/log/pods/*/ /var/log/pods/*/*/; do mkdir $each.probe 2>/dev/null && rmdir $each.probe || echo marked $each; done",
  // A container's network that is held.
  "for each in /var/run/netns/*; do nsenter --net=$each nft list tables 2>/dev/null | grep -q ums_hold && echo held $each; done",
  "pgrep --list-full 'criu' | sed 's/^[0-9]* /process /'",
  "grep -o ' [^ ]*/ums/[^ ]*' /proc/1/mountinfo | grep -v '^ /run/ums/restore$' | sed 's/^/mount /'",
];

async function tracesOn(node: ClusterNode): Promise<string[]> {
  const { stdout } = await node.exec(["sh", "-c", `{ ${onNode.join("; ")}; } 2>/dev/null; true`]);
  return stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => `${node.name}: ${line}`);
}

/** Everything in a site that a migration makes and must take away again, but its `Migration` object. */
export async function tracesIn({ cluster }: ClusterSite): Promise<Traces> {
  const kinds: Kind<KubernetesObject>[] = [services, endpointSlices, pods];
  const found = await Promise.all(
    kinds.map(async (kind) => (await cluster.api.list(kind)).map(({ metadata }) => `${kind.kind.toLowerCase()}/${metadata?.name}`)),
  );
  const objects = found
    .flat()
    .filter((name) => /\/ums-|^pod\//.test(name) && !/^pod\/(migration-|ssu-interface)/.test(name))
    .map((name) => `${cluster.name}: ${name}`);
  return [...objects, ...(await Promise.all(cluster.nodes.map(tracesOn))).flat()].toSorted();
}

/** Some goes away a moment after the end: given time, all of it must. @returns what has come since `before`, or is missing */
export async function tracesSince(sites: readonly ClusterSite[], before: readonly Traces[], timeoutMs = 20_000): Promise<string[]> {
  for (const until = Date.now() + timeoutMs; ; await sleep(500)) {
    const changes = await Promise.all(
      sites.map(async (site, index) => {
        const then = before[index] ?? [];
        return (await tracesIn(site)).filter((line) => !then.includes(line)).map((line) => `+ ${line}`);
      }),
    );
    if (changes.flat().length === 0 || Date.now() > until) return changes.flat();
  }
}
