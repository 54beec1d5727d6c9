import { pino } from "pino";
import { expect, test, vi } from "vitest";
import { createIncomingPods } from "../../approaches/orchestrator-level/incoming.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { pods, type Kind } from "../../platforms/kubernetes/kinds.ts";
import { type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";
import type { PodNeed } from "../../protocol/pod.ts";
import { beyondMemory, createArrivalRecords } from "./arrivals.ts";

/** Migrations alone, as an API server keeps them; it counts how often it lists pods. */
function fakeCluster() {
  const objects = new Map<string, MigrationObject>();
  const podLists = { count: 0 };
  const merged = (before: any, patch: any): any => {
    if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
    const after = { ...before };
    for (const [key, value] of Object.entries(patch)) {
      if (value === null) delete after[key];
      else after[key] = merged(after[key], value);
    }
    return after;
  };
  const cluster = {
    namespace: "ums",
    get: async (_: unknown, name: string) => objects.get(name),
    async list(kind: Kind<object>, { labelSelector = "" }: { labelSelector?: string }) {
      if (kind.plural === pods.plural) podLists.count++;
      await new Promise((resolve) => setTimeout(resolve, 1));
      const [label = "", value] = labelSelector.split("=");
      const items = kind.plural === migrations.plural ? [...objects.values()] : [];
      const has = ({ metadata: { labels = {} } }: MigrationObject) =>
        value === undefined ? labels[label] !== undefined : labels[label] === value;
      return { items: items.filter(has) };
    },
    async create(_: unknown, object: MigrationObject) {
      objects.set(object.metadata.name!, object);
      return object;
    },
    async patch(_: unknown, name: string, patch: object) {
      objects.set(name, merged(objects.get(name), patch));
      return objects.get(name);
    },
    delete: async (_: unknown, name: string) => objects.delete(name),
  } as unknown as Cluster;
  return { cluster, objects, podLists, ids: () => [...objects.values()].map(({ spec }) => spec.id) };
}

const idOf = (at: number) => at.toString(16).padStart(12, "0");
const needOf = (name: string) =>
  ({
    kind: "Pod",
    pod: { metadata: { namespace: "shop", name } },
    containers: [],
    volumes: [],
    ports: [],
    memoryBytes: 1,
  }) as unknown as PodNeed;

test("of a site's refused ids the newest 200 are remembered, and another site's all the same", async () => {
  const { cluster, ids } = fakeCluster();
  const records = createArrivalRecords(cluster, { siteName: "a" });
  await records.create({ id: idOf(5000), peer: "b", need: needOf("open") });
  await records.refuse(idOf(6000), "c");
  vi.useFakeTimers({ toFake: ["Date"] });
  try {
    for (let at = 0; at < 230; at++) {
      vi.setSystemTime(Date.now() + 10);
      await records.refuse(idOf(at), "b");
    }
  } finally {
    vi.useRealTimers();
  }
  expect(ids()).toHaveLength(202);
  expect(ids()).toEqual(expect.arrayContaining([5000, 6000, 30, 229].map(idOf)));
  expect(await records.find(idOf(29))).toBeUndefined();
  expect(await records.open()).toEqual([{ id: idOf(5000), peer: "b" }]);
});

test("ids that were reserved and given up are remembered no longer", async () => {
  const { cluster, ids } = fakeCluster();
  const records = createArrivalRecords(cluster, { siteName: "a" });
  for (let at = 0; at < 210; at++) {
    await records.create({ id: idOf(at), peer: "b", need: needOf(`pod-${at}`) });
    await records.end(idOf(at), "gone");
  }
  expect(ids()).toHaveLength(200);
});

test("neither what has come, nor what is open, nor what is still to be swept is forgotten", () => {
  const record = (id: string, status: object) =>
    ({ metadata: { name: id }, spec: { peer: "b", id, pod: "x", destination: "a" }, status }) as unknown as MigrationObject;
  const endedAt = "2026-01-01T00:00:00Z";
  const all = [
    record("committed", { phase: "Succeeded", endedAt }),
    record("open", { phase: "Preflight" }),
    record("unswept", { phase: "RolledBack", endedAt, facts: { making: true } }),
    record("swept", { phase: "RolledBack", endedAt, facts: { making: true, swept: true } }),
    record("newer", { phase: "RolledBack", endedAt: "2026-01-01T00:00:01Z" }),
  ];
  expect(beyondMemory(all, 1).map(({ spec }) => spec.id)).toEqual(["swept"]);
  expect(beyondMemory(all, 0).map(({ spec }) => spec.id)).toEqual(["newer", "swept"]);
});

test("a site that cancels a hundred migrations nobody has heard of has the cluster's pods looked through a few times", async () => {
  const { cluster, podLists, ids } = fakeCluster();
  const incoming = createIncomingPods({
    cluster,
    records: createArrivalRecords(cluster, { siteName: "a" }),
    node: () => Promise.reject(new Error("no node")),
    nodes: async () => [],
    accept: () => undefined,
    own: { namespace: "ums", accounts: [], secrets: [], apps: [] },
    maxIncoming: 2,
    maxOfPeer: () => 1,
    dataPort: 1,
    limits: { scheduleMs: 1, armMs: 1, restoreMs: 1, reserveMs: 1, leaseMs: 1 },
    log: pino({ level: "silent" }),
  });
  await Promise.all(Array.from({ length: 100 }, (_, at) => incoming.destroy(idOf(at), "b")));
  expect(ids()).toHaveLength(100);
  expect(podLists.count).toBeLessThan(10);
});

test("a site whose places are taken is told so, and the cluster is asked nothing about its pod", async () => {
  const { cluster } = fakeCluster();
  const records = createArrivalRecords(cluster, { siteName: "a" });
  await records.create({ id: idOf(1), peer: "b", need: needOf("one") });
  const incoming = createIncomingPods({
    cluster,
    records,
    node: () => Promise.reject(new Error("no node")),
    nodes: () => Promise.reject(new Error("asked nodes")),
    accept: () => undefined,
    own: { namespace: "ums", accounts: [], secrets: [], apps: [] },
    maxIncoming: 2,
    maxOfPeer: () => 1,
    dataPort: 1,
    limits: { scheduleMs: 1, armMs: 1, restoreMs: 1, reserveMs: 1, leaseMs: 1 },
    log: pino({ level: "silent" }),
  });
  const asked = needOf("two");
  await expect(incoming.reserve(idOf(2), "b", asked)).rejects.toMatchObject({ code: "SITE_BUSY" });
  expect(await records.find(idOf(2))).toBeUndefined();
});
