/** Nodes that lose their power in the middle of a migration between clusters, or never come back. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pods } from "../src/platforms/kubernetes/kinds.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint } from "./cluster-migrations.ts";
import { type ClusterSite, type ClusterSites, createClusterSites } from "./cluster-sites.ts";
import type { ClusterNode } from "./cluster/node.ts";
import { copiesOn } from "./kubernetes-disturbance.ts";
import { redisImage, redisImageName } from "./redis-pod.ts";

let sites: ClusterSites;
let a: ClusterSite;
/** It has two nodes: one can go without its control plane. */
let b: ClusterSite;
let worker: ClusterNode;

beforeAll(async () => {
  sites = await createClusterSites({ images: [await redisImage()] });
  ({ a, b } = sites);
  worker = b.cluster.nodes[1] as ClusterNode;
});
afterAll(() => sites[Symbol.asyncDispose]());

const endedMs = 150_000;

async function startPod(site: ClusterSite, { name, node }: { name: string; node?: string }): Promise<void> {
  const command = ["redis-server", "--save", "", "--protected-mode", "no"];
  await site.apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      ...(node === undefined ? {} : { nodeName: node }),
      terminationGracePeriodSeconds: 1,
      initContainers: [{ name: "first", image: redisImageName, command: ["true"] }],
      containers: [{ name: "redis", image: redisImageName, command }],
    },
  });
  await site.cluster.kubectl(["wait", "--for=condition=Ready", `pod/${name}`, "--timeout=60s"], { timeoutMs: 70_000 });
  await site.cluster.kubectl(["exec", name, "--", "redis-cli", "set", "here", "stays"]);
}
const wordIn = async (site: ClusterSite, name: string) =>
  (await site.cluster.kubectl(["exec", name, "--", "redis-cli", "get", "here"], { reject: false })).stdout;
const isThere = async (site: ClusterSite, name: string) => (await site.cluster.api.get(pods, name)) !== undefined;
const forget = async (name: string) => {
  for (const { cluster } of [a, b]) {
    await cluster.kubectl(["delete", "pod", name, "--ignore-not-found", "--grace-period=1"], { timeoutMs: 60_000 });
    await cluster.kubectl(["delete", "migration", name, "--ignore-not-found", "--timeout=30s"], { timeoutMs: 40_000 });
  }
};
const expectEnd = async (site: ClusterSite, name: string, phase: string) =>
  await expect.poll(async () => (await migrationIn(site, name)).status?.phase, { timeout: endedMs }).toBe(phase);

/** Why the kubelet can't start the pod. */
async function waitingFor(site: ClusterSite, name: string): Promise<string> {
  const { status } = (await site.cluster.api.get(pods, name)) ?? {};
  const statuses = [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])];
  return statuses.map(({ state }) => state?.waiting?.reason ?? "").join(" ");
}

test("a source's node that comes back after the commit starts nothing of a pod that has moved", { timeout: 300_000 }, async () => {
  const name = "left";
  await startPod(b, { name, node: worker.name });
  await createMigration(b, { name, pod: name, to: a, breakpoint: "remove-source before" });
  await atBreakpoint(b, name, { step: "remove-source", moment: "before" });
  await worker.powerOff();
  await sleep(1_000);
  await b.cluster.powerOn(worker);
  // The kubelet makes a new sandbox and would run the pod from its init containers on, as it does after any power loss.
  await expect.poll(() => waitingFor(b, name), { timeout: 90_000, interval: 500 }).toMatch(/Error|BackOff/);
  for (const until = Date.now() + 5_000; Date.now() < until; await sleep(100)) expect(copiesOn(worker)).toEqual([]);
  await setBreakpoint(b, name, undefined);
  await expectEnd(b, name, "Succeeded");
  expect(await isThere(b, name)).toBe(false);
  expect(await wordIn(a, name)).toBe("stays");
  await forget(name);
});

test(
  "a source's node that loses its power after the grant leaves the service to its copy, with its memory",
  { timeout: 300_000 },
  async () => {
    const name = "saved";
    await startPod(b, { name, node: worker.name });
    await createMigration(b, { name, pod: name, to: a, breakpoint: "restore before" });
    await atBreakpoint(b, name, { step: "restore", moment: "before" });
    await worker.powerOff();
    await setBreakpoint(b, name, undefined);
    await sleep(3_000);
    await b.cluster.powerOn(worker);
    await expectEnd(b, name, "Succeeded");
    expect(await isThere(b, name)).toBe(false);
    expect(await wordIn(a, name)).toBe("stays");
    await forget(name);
  },
);

test(
  "a source's node that loses its power before the grant starts its pod afresh, and nothing is at the destination",
  { timeout: 300_000 },
  async () => {
    const name = "afresh";
    await startPod(b, { name, node: worker.name });
    await createMigration(b, { name, pod: name, to: a, breakpoint: "freeze after" });
    await atBreakpoint(b, name, { step: "freeze", moment: "after" });
    await worker.powerOff();
    await setBreakpoint(b, name, undefined);
    await sleep(3_000);
    await b.cluster.powerOn(worker);
    await expectEnd(b, name, "RolledBack");
    expect(await isThere(a, name)).toBe(false);
    await expect.poll(() => copiesOn(worker), { timeout: 60_000 }).toEqual(["live"]);
    await expect.poll(() => wordIn(b, name), { timeout: 30_000 }).toBe("");
    await forget(name);
  },
);

test(
  "a destination's node that never comes back is gone when its Node is deleted: the migration is undone",
  { timeout: 300_000 },
  async () => {
    const name = "kept";
    await startPod(a, { name });
    await a.apply({
      apiVersion: "ums.dev/v1",
      kind: "Migration",
      metadata: { name, annotations: { "ums.dev/breakpoint": "restore after" } },
      spec: { pod: name, destination: b.name, node: worker.name },
    });
    await atBreakpoint(a, name, { step: "restore", moment: "after" });
    await worker.powerOff();
    await setBreakpoint(a, name, undefined);
    await sleep(5_000);
    expect((await migrationIn(a, name)).status?.endedAt).toBeUndefined();
    expect(copiesOn(a.cluster.nodes[0])).toEqual(["frozen"]);
    await b.cluster.kubectl(["delete", "node", worker.name], { timeoutMs: 60_000 });
    await expectEnd(a, name, "RolledBack");
    expect(await wordIn(a, name)).toBe("stays");
    expect(await isThere(b, name)).toBe(false);
  },
);
