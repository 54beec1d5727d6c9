import { pino } from "pino";
import { expect, test } from "vitest";
import type { NodeClient } from "../../approaches/orchestrator-level/node/client.ts";
import type { PodFacts } from "../../approaches/orchestrator-level/outgoing.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { type Kind, pods, type Service, services } from "../../platforms/kubernetes/kinds.ts";
import { migrationFinalizer, type MigrationObject } from "../../platforms/kubernetes/migration.ts";
import { createForwardings } from "./forwardings.ts";

/** A Migration that has ended, and whose forwarding had this slot. */
const ended = (phase: "Succeeded" | "RolledBack", slot: number) =>
  ({
    metadata: { name: phase.toLowerCase(), namespace: "default", uid: `${phase} ${slot}`, finalizers: [migrationFinalizer] },
    spec: { pod: "redis", destination: "b" },
    status: { phase, endedAt: "2026-01-01T00:00:00Z", facts: { source: { forwarding: { slot, to: "10.0.0.1", ports: [] } } } },
  }) as unknown as MigrationObject;

function forwardingsWith(known: readonly MigrationObject[], node: Partial<NodeClient>) {
  return createForwardings({
    cluster: { get: async () => undefined, list: async () => ({ items: known }) } as unknown as Cluster,
    interfaces: { all: () => [node as NodeClient] },
    siteName: "a",
    known: () => known,
    log: pino({ level: "silent" }),
    signal: new AbortController().signal,
  });
}

test("a Migration that was undone and is deleted takes nobody's way away: its slot may be another's by now", async () => {
  const removed: number[] = [];
  const [undone, moved] = [ended("RolledBack", 1), ended("Succeeded", 1)];
  const { forget } = forwardingsWith([undone, moved], { forwarding: async (_, { slot }) => void removed.push(slot) });
  await forget(undone);
  expect(removed).toEqual([]);
  await forget(moved);
  expect(removed).toEqual([1]);
});

test("a slot is taken once no node is being swept", async () => {
  const swept = Promise.withResolvers<void>();
  const kept: (readonly number[])[] = [];
  const forwardings = forwardingsWith([ended("Succeeded", 1)], {
    keepForwardings: async (slots) => {
      kept.push(slots);
      await swept.promise;
    },
    forwarding: async () => undefined,
  });
  const tending = forwardings.tend();
  const slot = forwardings.takeSlot("new").then((taken) => {
    kept.push([taken]);
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(kept).toEqual([[1]]);
  swept.resolve();
  await slot;
  expect(kept).toEqual([[1], [2]]);
  await tending;
});

const shop = (uid: string, { nodePort = 30_080, clusterIP = "10.0.0.7" } = {}): Service => ({
  metadata: { name: "shop", namespace: "default", uid },
  spec: { clusterIP, ports: [{ port: 80, nodePort, protocol: "TCP" }] },
});
/** A pod that has moved, and whose clients come by a Service. */
function movedShop(): MigrationObject {
  const known = {
    service: "shop",
    uid: "s-1",
    protocol: "tcp",
    clusterIp: "10.0.0.7",
    port: 80,
    nodePort: 30_080,
    targetPort: 80,
  } as const;
  const led = [
    { address: "", port: 30_080, toPort: 31_000, protocol: "tcp" },
    { address: "10.0.0.7", port: 80, toPort: 31_000, protocol: "tcp" },
  ] as const;
  const source = {
    namespace: "default",
    name: "redis",
    uid: "p-1",
    ports: [known],
    forwarding: { slot: 3, to: "10.0.0.1", ports: led, leaving: [] },
  };
  const object = ended("Succeeded", 3);
  return { ...object, status: { ...object.status, facts: { source } } };
}

/** A cluster with one Migration in it: what becomes of it, and what its node is told. */
function clusterWith(there: { services?: readonly Service[]; pod?: object }, moved = movedShop()) {
  let object = moved;
  const told: string[] = [];
  const abort = new AbortController();
  const cluster = {
    list: async (kind: Kind<object>) => ({ items: kind === (services as Kind<object>) ? (there.services ?? []) : [object] }),
    get: async (kind: Kind<object>) => (kind === (pods as Kind<object>) ? there.pod : object),
    async *watch() {
      for (const service of there.services ?? [shop("s-9")]) yield { type: "present", object: service };
    },
    async patch(_kind: Kind<object>, _name: string, [{ value }]: [{ value: PodFacts }]) {
      object = { ...object, status: { ...object.status, facts: { source: value } } };
    },
  } as unknown as Cluster;
  const node = {
    forwarding: async (action, { ports }) => void told.push([action, ...ports.map(({ address, port }) => `${address}:${port}`)].join(" ")),
    keepForwardings: async () => undefined,
  } as Partial<NodeClient> as NodeClient;
  const forwardings = createForwardings({
    cluster,
    interfaces: { all: () => [node] },
    siteName: "a",
    known: () => [object],
    log: pino({ level: "silent" }),
    signal: abort.signal,
  });
  return { forwardings, told, facts: () => object.status?.facts?.["source"] as PodFacts };
}

test("a way ends with the Service by which its clients come, also where another one has got its addresses", async () => {
  const { forwardings, told, facts } = clusterWith({ services: [shop("s-2")] });
  await forwardings.followServices();
  await expect.poll(() => told).toEqual(["remove :30080 10.0.0.7:80"]);
  await expect.poll(() => facts().forwarding).toBeUndefined();
});

test("a Service that has got another node port is led by its own address alone", async () => {
  const { forwardings, told, facts } = clusterWith({ services: [shop("s-1", { nodePort: 30_999 })] });
  await forwardings.followServices();
  await expect.poll(() => told).toEqual(["lead 10.0.0.7:80"]);
  await expect.poll(() => facts().forwarding?.ports).toHaveLength(1);
});

test("a Service that is as it was keeps its way", async () => {
  const { forwardings, told } = clusterWith({ services: [shop("s-1"), { metadata: { name: "other", namespace: "default", uid: "s-3" } }] });
  await forwardings.followServices();
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(told).toEqual([]);
});

const redis = (uid: string, annotations: Record<string, string> = {}) => ({
  metadata: { name: "redis", namespace: "default", uid, annotations },
  status: { conditions: [{ type: "Ready", status: "True" }] },
});

test("a pod of the moved one's name that is Ready here ends its way, whoever has made it", async () => {
  const { forwardings, told } = clusterWith({ pod: redis("p-2") });
  await forwardings.tend();
  expect(told).toEqual(["remove :30080 10.0.0.7:80"]);
});

test.each([
  ["the pod itself, which is still being removed", redis("p-1")],
  ["one that still arrives", redis("p-2", { "ums.dev/restore": "0123456789ab" })],
  ["one that is not Ready", { metadata: { name: "redis", uid: "p-2" } }],
])("%s does not", async (_, pod) => {
  const { forwardings, told } = clusterWith({ pod, services: [shop("s-1")] });
  await forwardings.tend();
  expect(told).toEqual(["lead :30080 10.0.0.7:80"]);
});

test("a status that says otherwise leads nobody but the clients of its own namespace's Services", async () => {
  const moved = movedShop();
  const source = moved.status?.facts?.["source"] as PodFacts;
  const forwarding = {
    ...source.forwarding,
    ports: [
      { address: "", port: 30_080, toPort: 31_000, protocol: "tcp" },
      { address: "", port: 10_250, toPort: 31_000, protocol: "tcp" },
      { address: "10.96.0.1", port: 443, toPort: 31_000, protocol: "tcp" },
    ],
  };
  const forged = { ...moved, status: { ...moved.status, facts: { source: { ...source, forwarding } } } } as unknown as MigrationObject;
  const { forwardings, told } = clusterWith({ services: [shop("s-1")] }, forged);
  await forwardings.tend();
  expect(told).toEqual(["lead :30080"]);
});

test("a pod that moves again has its earlier way ended at once", async () => {
  const { forwardings, told } = clusterWith({});
  await forwardings.endEarlier({ namespace: "default", pod: "another" });
  expect(told).toEqual([]);
  await forwardings.endEarlier({ namespace: "default", pod: "redis" });
  expect(told).toEqual(["remove :30080 10.0.0.7:80"]);
});
