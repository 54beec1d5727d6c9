/**
 * Kubernetes clusters for tests, on one machine: Kubernetes' own programs, containerd and runc, on nodes that have
 * namespaces, cgroups, storage and an address each. They hang on the wan of `wan.ts`, every cluster by one link of its own.
 * All of it lives exactly as long as the process that made it, also when that is killed.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { kubernetesPrograms, registryProgram } from "../setup/cluster-programs.ts";
import { clusterNodeRoot } from "../setup/cluster-node.ts";
import { containerImages, type NamedImage } from "../setup/container-images.ts";
import { type ApiReader, readApi } from "./cluster/api.ts";
import { createAuthority, kubeconfig } from "./cluster/certificates.ts";
import { type ClusterNode, createNode, type ServiceName } from "./cluster/node.ts";
import { type Registry, startRegistry } from "./cluster/registry.ts";
import { type ClusterNetwork, controlPlaneSettings, podNetwork, workerSettings } from "./cluster/services.ts";
import { coreDnsImage, systemImages } from "./cluster/system-images.ts";
import type { ExecOptions, ExecResult, Place } from "./place.ts";
import { createRun, type Run } from "./runs.ts";
import { createWan, shape, type Wan, wanAddressOf } from "./wan.ts";

/** One Kubernetes cluster; the control plane is on its first node. */
export type Cluster = Readonly<{
  name: string;
  /** A file of the machine. The API server that it names is reached from the wan and from every node. */
  kubeconfig: string;
  /** The API server's, as it is in the kubeconfig. */
  server: string;
  nodes: readonly [ClusterNode, ...ClusterNode[]];
  /** kubectl as an administrator, run in the wan. */
  kubectl(args: readonly string[], options?: ExecOptions): Promise<ExecResult>;
  /** How such a command begins, for what is spawned. */
  kubectlCommand: readonly string[];
  /** As the same administrator, for what is asked again and again. */
  api: ApiReader;
  /** An outage: the API server is killed, and stays away until {@link startApiServer}. */
  stopApiServer(): Promise<void>;
  /** Resolves when it answers again. */
  startApiServer(): Promise<void>;
  /** After `powerOff`: the node comes back as a machine does that starts its kubelet by itself. Not for the control plane's. */
  powerOn(node: ClusterNode): Promise<void>;
  /** Nothing passes between the wan and this cluster any more. */
  cutLink(): Promise<void>;
  restoreLink(): Promise<void>;
}>;

/** Two clusters, the wan between them, and a registry in it. */
export type Clusters = AsyncDisposable &
  Readonly<{
    a: Cluster;
    b: Cluster;
    wan: Wan;
    /** Host and port of the registry, in the wan. */
    registry: string;
    /** Makes images known to both clusters by the names that their users write; the registry in the name is not asked. */
    pushImages(images: readonly NamedImage[]): Promise<void>;
    /** Nothing passes between the clusters any more; the wan still reaches each of them. */
    cutLink(): Promise<void>;
    restoreLink(): Promise<void>;
    /** Limits both directions of each cluster's link; undefined = unshaped. */
    setRate(mbit: number | undefined): Promise<void>;
  }>;

/** What {@link createClusters} may be told. */
export type ClustersOptions = Readonly<{
  linkMbit?: number;
  /** 1 (the machine's v1 hierarchies, where it has them) or 2; what the machine has, unless told. */
  cgroupVersion?: 1 | 2;
  /** Known to both clusters from the start, besides what a cluster itself needs. */
  images?: readonly NamedImage[];
}>;

const nodeCounts = { a: 1, b: 2 };
/** Hosts of the same wan have lower ones (`hosts.ts`). */
const firstNodeNumber = { a: 101, b: 111 };
const readyWithinMs = 120_000;

/** Builds what clusters and their tests run, where it is not built yet: minutes, which no test has. */
export async function prepareClusters(): Promise<void> {
  await clusterNodeRoot();
  await registryProgram();
  await systemImages();
  await containerImages(["memhog", "ums", "ssu-interface"]);
}

/** Makes clusters `a` (one node) and `b` (two nodes), ready for pods. */
export async function createClusters(options: ClustersOptions = {}): Promise<Clusters> {
  const stack = new AsyncDisposableStack();
  try {
    const { wan, registry, create } = await prepareGround(stack, options);
    const [a, b] = await Promise.all([create("a"), create("b")]);
    const links = Object.values(uplinks);
    const isolate = async (isolated: "on" | "off") =>
      void (await Promise.all(links.map(({ outer }) => wan.exec(["bridge", "link", "set", "dev", outer, "isolated", isolated]))));
    const setRate = async (mbit: number | undefined) =>
      void (await Promise.all(links.flatMap(({ outer, inner }) => [shape(wan, outer, mbit), shape(wan, inner, mbit)])));
    if (options.linkMbit !== undefined) await setRate(options.linkMbit);
    return {
      a,
      b,
      wan,
      registry: registry.address,
      pushImages: (images) => registry.push(images),
      cutLink: () => isolate("on"),
      restoreLink: () => isolate("off"),
      setRate,
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** What clusters stand on: a wan with their registry in it. */
export type ClusterGround = Readonly<{ run: Run; wan: Wan; registry: Registry; create(name: "a" | "b"): Promise<Cluster> }>;

/** Lives as long as the stack, and so does each cluster made on it. */
export async function prepareGround(
  stack: AsyncDisposableStack,
  { cgroupVersion, images = [] }: Pick<ClustersOptions, "cgroupVersion" | "images">,
): Promise<ClusterGround> {
  const [root, programs] = await Promise.all([clusterNodeRoot(), kubernetesPrograms()]);
  const run = await createRun(stack, cgroupVersion);
  const wan = await createWan(stack);
  const registry = await startRegistry({ wan, directory: join(run.directory, "registry"), stack });
  const pushed = systemImages().then((system) => registry.push([...system, ...images]));
  pushed.catch(() => undefined);
  const create = (name: "a" | "b") => createCluster({ name, run, wan, root, programs, registry: registry.address, pushed, stack });
  return { run, wan, registry, create };
}

/** The two ends of each cluster's link: at the wan's bridge, and at the cluster's. */
const uplinks = { a: { outer: "to-a", inner: "from-a" }, b: { outer: "to-b", inner: "from-b" } };

type ClusterParts = Readonly<{
  name: "a" | "b";
  run: Run;
  wan: Place;
  root: string;
  programs: string;
  registry: string;
  /** Resolves when the registry has what a cluster needs. */
  pushed: Promise<void>;
  stack: AsyncDisposableStack;
}>;

async function createCluster({ name, run, wan, root, programs, registry, pushed, stack }: ClusterParts): Promise<Cluster> {
  const bridge = `site-${name}`;
  const { outer, inner } = uplinks[name];
  await wan.exec(["ip", "link", "add", bridge, "type", "bridge"]);
  await wan.exec(["ip", "link", "add", outer, "type", "veth", "peer", "name", inner]);
  await wan.exec(["ip", "link", "set", outer, "master", "wan", "up"]);
  await wan.exec(["ip", "link", "set", inner, "master", bridge, "up"]);
  await wan.exec(["ip", "link", "set", bridge, "up"]);

  const index = name === "a" ? 0 : 1;
  const numbers = Array.from({ length: nodeCounts[name] }, (_, at) => at + 1);
  const addressOf = (number: number) => wanAddressOf(firstNodeNumber[name] + number - 1);
  const controlPlaneAddress = addressOf(1);
  const server = `https://${controlPlaneAddress}:6443`;
  const network: ClusterNetwork = {
    cluster: name,
    apiServer: server,
    servicePrefix: `10.${220 + index}.0`,
    podPrefix: `10.${210 + index}`,
  };
  const authority = await createAuthority(`cluster-${name}`);
  const configuration = join(run.directory, `kubeconfig-${name}`);
  const administrator = await authority.issue({ name: "admin", groups: ["system:masters"] });
  writeFileSync(
    configuration,
    kubeconfig({ cluster: name, server, authority: authority.certificate, user: "admin", credential: administrator }),
    { mode: 0o600 },
  );

  const [first, ...others] = await Promise.all(
    numbers.map(async (number) => {
      const nodeName = `${name}-${number}`;
      const address = addressOf(number);
      const worker = await workerSettings({ network, authority, name: nodeName, number, address, registry });
      const controlPlane = number === 1 ? await controlPlaneSettings({ network, authority, name: nodeName, address }) : undefined;
      return createNode({
        name: nodeName,
        number: firstNodeNumber[name] + number - 1,
        run,
        wan,
        bridge,
        root,
        programs,
        files: { ...worker.files, ...controlPlane?.files },
        services: { ...worker.services, ...controlPlane?.services },
        stack,
      });
    }),
  );
  if (!first) throw new Error("a cluster has nodes");
  const nodes: Cluster["nodes"] = [first, ...others];
  const administration = [join(programs, "kubectl"), `--kubeconfig=${configuration}`];
  const kubectl = (args: readonly string[], options: ExecOptions = {}) =>
    wan.exec([...administration, ...args], {
      ...options,
      // Not into the home of whoever runs the tests.
      env: { KUBECACHEDIR: join(run.directory, `kubectl-${name}`), ...options.env },
    });
  const explain = async (error: unknown, ...services: readonly ServiceName[]) => {
    const logs = await Promise.all(services.map(async (service) => `${service}:\n${await first.log(service, 15).catch(String)}`));
    return new Error(`cluster ${name} does not come up: ${String(error)}\n${logs.join("\n")}`, { cause: error });
  };
  const apiServerAnswers = () => until(async () => (await kubectl(["get", "--raw=/readyz"], { reject: false })).exitCode === 0);

  await Promise.all(nodes.map((node) => node.start("containerd")));
  await first.start("etcd", "kube-apiserver");
  await Promise.all(nodes.map((node) => joinPodNetworks({ node, nodes, network, addressOf })));
  await apiServerAnswers().catch(async (error: unknown) => Promise.reject(await explain(error, "etcd", "kube-apiserver")));
  await first.start("kube-controller-manager", "kube-scheduler");
  await Promise.all(nodes.map((node) => node.start("kubelet", "kube-proxy")));
  await pushed;
  const manifest = readFileSync(join(import.meta.dirname, "cluster/coredns.yaml"), "utf8")
    .replace("COREDNS_IMAGE", coreDnsImage)
    .replace("CLUSTER_DNS", `${network.servicePrefix}.10`);
  await kubectl(["apply", "--filename=-"], { input: manifest });
  await until(
    async () => (await kubectl(["get", "nodes", "--output=name"])).stdout.split("\n").filter(Boolean).length === nodes.length,
  ).catch(async (error: unknown) => Promise.reject(await explain(error, "kubelet")));
  await kubectl(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=90s"], { timeoutMs: readyWithinMs });
  await kubectl(["rollout", "status", "--namespace=kube-system", "deployment/coredns", "--timeout=90s"], { timeoutMs: readyWithinMs });
  // The service account's controller may be a moment behind, and no pod is admitted without the account.
  await until(async () => (await kubectl(["get", "serviceaccount/default"], { reject: false })).exitCode === 0);

  const linkState = async (state: string) => void (await wan.exec(["ip", "link", "set", inner, state]));
  return {
    name,
    kubeconfig: configuration,
    server,
    nodes,
    kubectl,
    kubectlCommand: administration,
    api: await readApi({ wan, kubectl: administration, socket: join(run.directory, `api-${name}.sock`), stack }),
    stopApiServer: () => first.stop("kube-apiserver"),
    startApiServer: async () => {
      await first.start("kube-apiserver");
      await apiServerAnswers();
    },
    powerOn: async (node) => {
      await node.powerOn();
      await joinPodNetworks({ node, nodes, network, addressOf });
      await node.start("containerd", "kubelet", "kube-proxy");
    },
    cutLink: () => linkState("down"),
    restoreLink: () => linkState("up"),
  };
}

type Joined = Readonly<{
  node: ClusterNode;
  nodes: readonly ClusterNode[];
  network: ClusterNetwork;
  addressOf: (number: number) => string;
}>;

/** Pods of one cluster reach each other by their own addresses, across its nodes; outside they appear as their node. */
async function joinPodNetworks({ node, nodes, network, addressOf }: Joined): Promise<void> {
  for (const [index, other] of nodes.entries()) {
    if (other !== node) await node.exec(["ip", "route", "add", podNetwork(network, index + 1), "via", addressOf(index + 1)]);
  }
  const pods = `${network.podPrefix}.0.0/16`;
  const rule = ["POSTROUTING", "--source", pods, "!", "--destination", pods, "--jump", "MASQUERADE"];
  await node.exec(["iptables", "--wait", "--table", "nat", "--append", ...rule]);
}

async function until(condition: () => Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  for (const deadline = Date.now() + timeoutMs; !(await condition()); await sleep(100)) {
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms`);
  }
}
