/** What clients of a busy pod meet while it moves between two clusters. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pods } from "../src/platforms/kubernetes/kinds.ts";
import { type Attempts, type BusyClient, type Flow, startBusyClient, startUdpFlow } from "./busy-client.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint } from "./cluster-migrations.ts";
import { type ClusterSite, type ClusterSites, createClusterSites, moved, served } from "./cluster-sites.ts";
import { imageLayout } from "./images.ts";

const hops = 6;
const servicesImage = "ghcr.io/hpcclab/ums-test/services:1";
const [tcpPort, udpPort] = [30_077, 30_078];
/** What a client's own work, and this machine's, may add to the hold. */
const graceMs = 1_000;

let sites: ClusterSites;
let a: ClusterSite;
let b: ClusterSite;
const clients = new Map<string, BusyClient<Attempts>>();
const flows = new Map<string, BusyClient<Flow>>();

const podNamed = (name: string, program: string) => ({
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
const greetProgram = readFileSync(resolve(import.meta.dirname, "services/greet.py"), "utf8");
const service = (name: string, more: object = {}) => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { name },
  spec: {
    type: "NodePort",
    selector: { app: name },
    ports: [
      { name: "tcp", port: 8080, nodePort: tcpPort },
      { name: "udp", port: 8081, protocol: "UDP", nodePort: udpPort },
    ],
    ...more,
  },
});
const ready = ({ cluster }: ClusterSite, ...names: string[]) =>
  cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=60s", ...names.map((name) => `pod/${name}`)], { timeoutMs: 70_000 });

beforeAll(async () => {
  sites = await createClusterSites({ images: [{ reference: servicesImage, layout: await imageLayout("services") }] });
  ({ a, b } = sites);
  const program = readFileSync(resolve(import.meta.dirname, "busy-client.ts"), "utf8");
  for (const site of [a, b]) {
    const { nodes } = site.cluster;
    await site.apply(
      service("greet"),
      { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "program" }, data: { "busy-client.ts": program } },
      ...nodes.map(({ name }) => ({
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: `client-${name}` },
        spec: {
          nodeName: name,
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              name: "main",
              image: "ghcr.io/hpcclab/ums/ums:main",
              command: ["sleep", "infinity"],
              volumeMounts: [{ name: "program", mountPath: "/program" }],
            },
          ],
          volumes: [{ name: "program", configMap: { name: "program" } }],
        },
      })),
    );
    await ready(site, ...nodes.map(({ name }) => `client-${name}`));
  }
  await a.apply(podNamed("greet", greetProgram));
  await ready(a, "greet");
  await served(a, tcpPort);
});
afterAll(() => sites[Symbol.asyncDispose]());

/** Whoever may be on a site: in a pod on each of its nodes by the Service's own address, outside, and on a node, by its port. */
async function startClients({ cluster, name: site }: ClusterSite, workers: number): Promise<void> {
  const { stdout: host } = await cluster.kubectl(["get", "service/greet", "--output=jsonpath={.spec.clusterIP}"]);
  for (const { name } of cluster.nodes) {
    const node = [...cluster.kubectlCommand, "exec", "-i", `client-${name}`, "--", "node", "/program/busy-client.ts"];
    clients.set(`in a pod on ${name}`, await startBusyClient(sites.clusters.wan, { host, port: 8080, workers, node }));
    flows.set(`in a pod on ${name}`, await startUdpFlow(sites.clusters.wan, { host, port: 8081, node }));
  }
  const last = cluster.nodes.at(-1) ?? cluster.nodes[0];
  clients.set(`outside, at ${site}`, await startBusyClient(sites.clusters.wan, { host: last.address, port: tcpPort, workers }));
  flows.set(`outside, at ${site}`, await startUdpFlow(sites.clusters.wan, { host: last.address, port: udpPort }));
}

/** @param heldMs for which they may have had to wait */
async function expectServed(heldMs: number): Promise<void> {
  await sleep(1_500);
  for (const [which, client] of clients) {
    const { succeeded, failures, ...slowest } = await client.report();
    expect({ which, failures }).toEqual({ which, failures: [] });
    expect(succeeded, which).toBeGreaterThan(20);
    expect(slowest.slowestMs, `${which}: ${JSON.stringify(slowest)}, held for ${heldMs}`).toBeLessThan(heldMs + graceMs);
  }
  for (const [which, flow] of flows) {
    const { longestGapMs, sinceLastAnswerMs } = await flow.report();
    expect(longestGapMs, `${which}: held for ${heldMs}`).toBeLessThan(heldMs + graceMs);
    expect(sinceLastAnswerMs, which).toBeLessThan(500);
  }
}

/** Connections that found the hold already there, and no waiting place: their clients had to try again. */
async function late({ cluster }: ClusterSite): Promise<string[]> {
  const { stdout } = await cluster.kubectl(["logs", "--selector=app=migration-operator", "--tail=-1"]);
  return stdout.split("\n").filter((line) => line.includes("could not be held"));
}

test(`in ${hops} hops there and back no client of a busy pod fails, hangs, or has to try again`, async () => {
  await startClients(a, 6);
  await sleep(500);
  await expectServed(0);
  for (let hop = 0; hop < hops; hop++) {
    const [from, to] = hop % 2 === 0 ? [a, b] : [b, a];
    const { heldMs } = await moved(from, to, "greet");
    await expectServed(heldMs ?? 0);
    // Before, its Service there led nowhere.
    if (hop === 0) await startClients(b, 2);
    await sleep(500);
  }
  // Meanwhile the pod's own Services have taken over.
  await sleep(6_000);
  await expectServed(0);
  expect([...(await late(a)), ...(await late(b))]).toEqual([]);
});

test("those that wait for a migration which is undone after a hold of 4 s are served by the source, and none is refused", async () => {
  await expectServed(0);
  const name = "undone";
  await createMigration(a, { name, pod: "greet", to: b, breakpoint: "freeze after" });
  await atBreakpoint(a, name, { step: "freeze", moment: "after" });
  await sleep(4_000);
  await a.cluster.kubectl(["patch", "migration", name, "--type=merge", "--patch", '{"spec":{"cancel":true}}']);
  await setBreakpoint(a, name, undefined);
  await expect.poll(async () => (await migrationIn(a, name)).status?.phase, { timeout: 60_000 }).toBe("RolledBack");
  const { heldMs = 0 } = (await migrationIn(a, name)).status ?? {};
  expect(heldMs).toBeGreaterThan(4_000);
  await expectServed(heldMs);
});

test("whoever gets the addresses of a Service that has gone gets its clients, too", async () => {
  for (const client of [...clients.values(), ...flows.values()]) await client.kill();
  const { stdout: clusterIP } = await a.cluster.kubectl(["get", "service/greet", "--output=jsonpath={.spec.clusterIP}"]);
  await moved(a, b, "greet");
  await a.apply(podNamed("other", greetProgram.replaceAll("hello", "other")));
  await ready(a, "other");
  await a.cluster.kubectl(["delete", "service/greet"]);
  await a.apply(service("other", { clusterIP }));
  const [node] = a.cluster.nodes;
  for (const [host, port] of [
    [clusterIP, 8080],
    [node.address, tcpPort],
  ] as const) {
    const ask = `exec 3<>/dev/tcp/${host}/${port}; head -n 1 <&3`;
    await expect.poll(async () => (await node.exec(["timeout", "2", "bash", "-c", ask], { reject: false })).stdout).toBe("other");
  }
});

test("a pod that somebody makes in place of one that has moved gets the clients of its Services", async () => {
  await a.cluster.kubectl(["delete", "service/other", "pod/other"]);
  await b.apply(service("greet"));
  await moved(b, a, "greet");
  await b.apply(podNamed("greet", greetProgram.replaceAll("hello", "anew")));
  await ready(b, "greet");
  const [node] = b.cluster.nodes;
  const ask = `exec 3<>/dev/tcp/${node.address}/${tcpPort}; head -n 1 <&3`;
  await expect
    .poll(async () => (await node.exec(["timeout", "2", "bash", "-c", ask], { reject: false })).stdout, { timeout: 30_000 })
    .toBe("anew");
  expect(await b.cluster.api.get(pods, "greet")).toBeDefined();
});
