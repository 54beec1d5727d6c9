/** Two clusters that are paired sites: UMS in each of them by `kubectl apply` of its manifests, and nothing else. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { dump, loadAll } from "js-yaml";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { nodes } from "../src/platforms/kubernetes/kinds.ts";
import { containerImages } from "../setup/container-images.ts";
import { type Cluster, type Clusters, type ClustersOptions, createClusters } from "./clusters.ts";
import { type UmsCommand, umsCommand } from "./ums-command.ts";

const manifests = resolve(import.meta.dirname, "../deploy/kubernetes");
/** In the order in which docs/kubernetes.md has a person apply them. */
const files = ["crd.yml", "rbac.yml", "deployment.yml", "ssu-crd.yml", "ssu.yml"];
/** Where every node of a cluster leads to its coordinator. */
export const coordinatorPort = 30_001;

/** A cluster with UMS in it; `ums` runs in its coordinator. */
export type ClusterSite = UmsCommand &
  Readonly<{
    cluster: Cluster;
    name: string;
    apply(...objects: readonly object[]): Promise<void>;
  }>;

export type ClusterSites = AsyncDisposable & Readonly<{ clusters: Clusters; a: ClusterSite; b: ClusterSite }>;

/** @param options.images known to both clusters from the start, besides UMS's own */
export async function createClusterSites(options: ClustersOptions = {}): Promise<ClusterSites> {
  const own = await containerImages(["ums", "ssu-interface"]);
  const clusters = await createClusters({ ...options, images: [...own, ...(options.images ?? [])] });
  try {
    const [a, b] = await Promise.all([deploy(clusters.a), deploy(clusters.b)]);
    const { code } = await b.json<{ code: string }>(["pair"]);
    await a.json(["pair", "--with", `${clusters.b.nodes[0].address}:${coordinatorPort}`, "--code", code]);
    return { clusters, a, b, [Symbol.asyncDispose]: () => clusters[Symbol.asyncDispose]() };
  } catch (cause) {
    await explain(clusters.a, clusters.b);
    await clusters[Symbol.asyncDispose]();
    throw cause;
  }
}

/** Installs UMS in a cluster whose registry has its images. */
export async function deploy(cluster: Cluster): Promise<ClusterSite> {
  const settings = { SITE_NAME: cluster.name, LOG_LEVEL: "debug", CONTAINERD_RESTART: "signal", BREAKPOINTS: "yes" };
  for (const file of files) await cluster.kubectl(["apply", "--filename=-"], { input: withSettings(file, settings) });
  const rollouts = ["deployment/migration-coordinator", "deployment/migration-operator", "daemonset/ssu-interface"];
  await Promise.all(rollouts.map((rollout) => cluster.kubectl(["rollout", "status", rollout, "--timeout=150s"], { timeoutMs: 160_000 })));
  await restoring(cluster);
  const command = umsCommand((args, { timeoutMs }) =>
    cluster.kubectl(["exec", "deployment/migration-coordinator", "--", "ums", ...args], { timeoutMs, reject: false }),
  );
  // A containerd that has just been restarted runs no command at first.
  for (let tries = 0; tries < 30 && (await command.ums(["sites"])).exitCode !== 0; tries++) await sleep(500);
  return {
    cluster,
    name: cluster.name,
    ...command,
    async apply(...objects) {
      await cluster.kubectl(["apply", "--filename=-"], { input: objects.map((object) => dump(object)).join("---\n") });
    },
  };
}

/** A manifest as a person would have edited it. */
function withSettings(file: string, settings: Readonly<Record<string, string>>): string {
  const objects = loadAll(readFileSync(join(manifests, file), "utf8")) as { kind: string; data?: Record<string, string> }[];
  for (const object of objects) if (object.kind === "ConfigMap") object.data = { ...object.data, ...settings };
  return objects.map((object) => dump(object)).join("---\n");
}

/** Resolves when every node can take pods in. */
async function restoring(cluster: Cluster, timeoutMs = 60_000): Promise<void> {
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(200)) {
    if ((await cluster.api.list(nodes, { labels: "ums.dev/restores=true" })).length === cluster.nodes.length) return;
  }
  throw new Error(`Not every node of cluster ${cluster.name} can take pods in.`);
}

/** What a person would look at first. */
export async function explain(...clusters: readonly Cluster[]): Promise<void> {
  for (const cluster of clusters) {
    for (const args of [
      ["get", "pods,nodes", "--all-namespaces", "--output=wide"],
      ["get", "events", "--sort-by=.lastTimestamp"],
      ["logs", "--selector=app in (migration-coordinator,migration-operator,ssu-interface)", "--tail=20", "--prefix"],
    ]) {
      const { stdout, stderr } = await cluster.kubectl(args, { reject: false });
      console.error(`--- ${cluster.name}: kubectl ${args.join(" ")}\n${stdout}${stderr}`);
    }
  }
}

/**
 * Within which a node has followed an API server that was away: kubelet and kube-proxy wait for up to 60 s between two
 * tries to watch it, and one that comes while it is starting may fail, too.
 */
export const followedMs = 180_000;

/** Resolves when every node leads clients of this node port to a pod: one is Ready before each kube-proxy has heard of it. */
export async function served({ cluster: { nodes } }: Pick<ClusterSite, "cluster">, port: number): Promise<void> {
  const connect = (address: string) => `until timeout 2 bash -c 'exec 3<>/dev/tcp/${address}/${port}'; do sleep 0.1; done`;
  await Promise.all(nodes.map((node) => node.exec(["bash", "-c", connect(node.address)], { timeoutMs: followedMs })));
}

/** @param options more of `ums migrate` */
export async function moved(
  from: Pick<ClusterSite, "json">,
  to: Readonly<{ name: string }>,
  pod: string,
  options: readonly string[] = [],
): Promise<Migration> {
  const migration = await from.json<Migration>(["migrate", pod, "--to", to.name, ...options], { timeoutMs: 400_000 });
  if (migration.phase !== "Succeeded") throw new Error(`The migration ended as ${JSON.stringify(migration)}`);
  return migration;
}

/** Resolves when a plan finds nothing against it: sites know of each other's nodes again a moment after an outage. */
export async function movable(from: Pick<ClusterSite, "ums">, to: Readonly<{ name: string }>, service: string): Promise<void> {
  for (const until = Date.now() + followedMs; ; await sleep(200)) {
    const { exitCode, stdout, stderr } = await from.ums(["plan", service, "--to", to.name]);
    if (exitCode === 0) return;
    if (Date.now() > until) throw new Error(`The service could not move before anything was done to it: ${stdout}${stderr}`);
  }
}
