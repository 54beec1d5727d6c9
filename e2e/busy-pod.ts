/** A busy pod in one of two clusters, and clients that never leave it alone: what tests, the soak and the benchmark move about. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Crowd, createCrowd, type Served, startBusyClient, startUdpFlow } from "./busy-client.ts";
import { type ClusterSite, type ClusterSites, createClusterSites, moved, served } from "./cluster-sites.ts";
import { imageLayout } from "./images.ts";

const servicesImage = "ghcr.io/hpcclab/ums-test/services:1";
export const busyPorts = { tcp: 30_077, udp: 30_078 };
/** It says `hello`; see there. */
export const greetProgram = readFileSync(resolve(import.meta.dirname, "services/greet.py"), "utf8");

/** @param program in Python, which listens as {@link greetProgram} does */
export const busyPod = (name: string, program: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, labels: { app: name } },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: "main",
        image: servicesImage,
        command: ["python3", "-u", "-c", program],
        ports: [{ containerPort: 8080 }, { containerPort: 8081, protocol: "UDP" }],
        // By the network it would come past every waiting place, and count as late.
        readinessProbe: { exec: { command: ["true"] }, periodSeconds: 1 },
      },
    ],
  },
});
export const busyPodService = (name: string, more: object = {}) => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name },
  spec: {
    type: "NodePort",
    selector: { app: name },
    ports: [
      { name: "tcp", port: 8080, nodePort: busyPorts.tcp },
      { name: "udp", port: 8081, protocol: "UDP", nodePort: busyPorts.udp },
    ],
    ...more,
  },
});
export const ready = ({ cluster }: ClusterSite, ...names: string[]) =>
  cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", ...names.map((name) => `pod/${name}`)], { timeoutMs: 70_000 });

export type BusyPod = AsyncDisposable &
  Readonly<{
    sites: ClusterSites;
    crowd: Crowd;
    /** Moves the pod to the other cluster and lets its clients go on for a moment. @returns what they met since the last look */
    hop(): Promise<Served>;
    /** Lines of the operators' logs about connections that UMS could not hold. */
    late(): Promise<string[]>;
  }>;

/** With clients of cluster a, where the pod begins; those of cluster b come with the first hop, when its Service there leads somewhere. */
export async function createBusyPod(): Promise<BusyPod> {
  const sites = await createClusterSites({ images: [{ reference: servicesImage, layout: await imageLayout("services") }] });
  const crowd = createCrowd();
  const dispose = async () => {
    await crowd.end();
    await sites[Symbol.asyncDispose]();
  };
  try {
    const { a, b } = sites;
    await Promise.all([a, b].map(makeClientPods));
    await a.apply(busyPod("greet", greetProgram));
    await ready(a, "greet");
    await served(a, busyPorts.tcp);
    await joinCrowd(sites, a, { crowd, workers: 6 });
    await sleep(500);
    let [from, to] = [a, b];
    const joined = new Set([a]);
    return {
      sites,
      crowd,
      async hop() {
        const { heldMs = 0 } = await moved(from, to, "greet");
        [from, to] = [to, from];
        const met = await crowd.look(heldMs);
        if (!joined.has(from)) await joinCrowd(sites, from, { crowd, workers: 2 });
        joined.add(from);
        await sleep(500);
        return met;
      },
      async late() {
        const logs = await Promise.all(
          [a, b].map(({ cluster }) => cluster.kubectl(["logs", "--selector=app=migration-operator", "--tail=-1"])),
        );
        return logs.flatMap(({ stdout }) => stdout.split("\n")).filter((line) => line.includes("could not be held"));
      },
      [Symbol.asyncDispose]: () => dispose(),
    };
  } catch (cause) {
    await dispose();
    throw cause;
  }
}

/** A pod on each node, in which a client can run. */
async function makeClientPods(site: ClusterSite): Promise<void> {
  const { nodes } = site.cluster;
  const program = readFileSync(resolve(import.meta.dirname, "busy-client.ts"), "utf8");
  const main = {
    name: "main",
    image: "ghcr.io/hpcclab/ums/ums:main",
    command: ["sleep", "infinity"],
    volumeMounts: [{ name: "program", mountPath: "/program" }],
  };
  const volumes = [{ name: "program", configMap: { name: "program" } }];
  await site.apply(
    busyPodService("greet"),
    { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "program" }, data: { "busy-client.ts": program } },
    ...nodes.map(({ name: nodeName }) => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: `client-${nodeName}` },
      spec: { nodeName, terminationGracePeriodSeconds: 1, containers: [main], volumes },
    })),
  );
  await ready(site, ...nodes.map(({ name }) => `client-${name}`));
}

/** In a pod on each node by the Service's own address, outside by a node's port. */
async function joinCrowd(
  { clusters: { wan } }: ClusterSites,
  { cluster, name: site }: ClusterSite,
  { crowd, workers }: { crowd: Crowd; workers: number },
): Promise<void> {
  const { stdout: host } = await cluster.kubectl(["get", "service/greet", "--output=jsonpath={.spec.clusterIP}"]);
  for (const { name } of cluster.nodes) {
    const node = [...cluster.kubectlCommand, "exec", "-i", `client-${name}`, "--", "node", "/program/busy-client.ts"];
    crowd.clients.set(`in a pod on ${name}`, await startBusyClient(wan, { host, port: 8080, workers, node }));
    crowd.flows.set(`in a pod on ${name}`, await startUdpFlow(wan, { host, port: 8081, node }));
  }
  const last = cluster.nodes.at(-1) ?? cluster.nodes[0];
  crowd.clients.set(`outside, at ${site}`, await startBusyClient(wan, { host: last.address, port: busyPorts.tcp, workers }));
  crowd.flows.set(`outside, at ${site}`, await startUdpFlow(wan, { host: last.address, port: busyPorts.udp }));
}
