/** What clients of a busy pod meet while it moves between two clusters. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complaints } from "./busy-client.ts";
import { type BusyPod, busyPod, busyPodService, busyPorts, createBusyPod, greetProgram, ready } from "./busy-pod.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint } from "./cluster-migrations.ts";
import { type ClusterSite, moved } from "./cluster-sites.ts";
import type { ClusterNode } from "./cluster/node.ts";

const hops = 6;
let busy: BusyPod;
let a: ClusterSite;
let b: ClusterSite;
beforeAll(async () => {
  busy = await createBusyPod();
  ({ a, b } = busy.sites);
});
afterAll(() => busy[Symbol.asyncDispose]());

test(`in ${hops} hops there and back no client of a busy pod fails, hangs, or has to try again`, async () => {
  expect(complaints(await busy.crowd.look(0))).toEqual([]);
  for (let hop = 0; hop < hops; hop++) expect(complaints(await busy.hop())).toEqual([]);
  // Meanwhile the pod's own Services have taken over.
  await sleep(6_000);
  expect(complaints(await busy.crowd.look(0))).toEqual([]);
  expect(await busy.late()).toEqual([]);
});

test("those that wait for a migration which is undone after a hold of 4 s are served by the source, and none is refused", async () => {
  expect(complaints(await busy.crowd.look(0))).toEqual([]);
  const name = "undone";
  await createMigration(a, { name, pod: "greet", to: b, breakpoint: "freeze after" });
  await atBreakpoint(a, name, { step: "freeze", moment: "after" });
  await sleep(4_000);
  await a.cluster.kubectl(["patch", "migration", name, "--type=merge", "--patch", '{"spec":{"cancel":true}}']);
  await setBreakpoint(a, name, undefined);
  await expect.poll(async () => (await migrationIn(a, name)).status?.phase, { timeout: 60_000 }).toBe("RolledBack");
  const { heldMs = 0, notes } = (await migrationIn(a, name)).status ?? {};
  expect(notes).toContainEqual({ site: a.name, detail: expect.stringContaining("clients connect again") as string });
  expect(heldMs).toBeGreaterThan(4_000);
  expect(complaints(await busy.crowd.look(heldMs))).toEqual([]);
});

/** What a service says to who connects to it from a node. */
async function greeting(node: ClusterNode, host: string, port: number): Promise<string> {
  const ask = `exec 3<>/dev/tcp/${host}/${port}; head -n 1 <&3`;
  return (await node.exec(["timeout", "2", "bash", "-c", ask], { reject: false })).stdout;
}

test("whoever gets the addresses of a Service that has gone gets its clients, too", async () => {
  await busy.crowd.end();
  const { stdout: clusterIP } = await a.cluster.kubectl(["get", "service/greet", "--output=jsonpath={.spec.clusterIP}"]);
  await moved(a, b, "greet");
  await a.apply(busyPod("other", greetProgram.replaceAll("hello", "other")));
  await ready(a, "other");
  await a.cluster.kubectl(["delete", "service/greet"]);
  await a.apply(busyPodService("other", { clusterIP }));
  const [node] = a.cluster.nodes;
  await expect.poll(() => greeting(node, clusterIP, 8080)).toBe("other");
  await expect.poll(() => greeting(node, node.address, busyPorts.tcp)).toBe("other");
});

test("a pod that somebody makes in place of one that has moved gets the clients of its Services", async () => {
  await a.cluster.kubectl(["delete", "service/other", "pod/other"]);
  await moved(b, a, "greet");
  await b.apply(busyPod("greet", greetProgram.replaceAll("hello", "anew")));
  await ready(b, "greet");
  const [node] = b.cluster.nodes;
  await expect.poll(() => greeting(node, node.address, busyPorts.tcp), { timeout: 30_000 }).toBe("anew");
});
