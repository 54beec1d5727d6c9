/** What a tenant of a cluster can't do to others: by its own token, on a real API server with UMS's rights and admission. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { fastify } from "fastify";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { createArrivalRecords } from "../src/apps/coordinator/arrivals.ts";
import { createPeople } from "../src/apps/coordinator/people.ts";
import { createCarrier } from "../src/apps/operator/carrier.ts";
import type { Sites } from "../src/apps/operator/sites.ts";
import type { NodeClient } from "../src/approaches/orchestrator-level/node/client.ts";
import { createPlaces } from "../src/approaches/orchestrator-level/node/places.ts";
import type { LeavingPod, PodNeed } from "../src/protocol/pod.ts";
import { clusterLimits } from "../src/cluster-settings.ts";
import type { Task } from "../src/container-engines/containerd/containerd.ts";
import type { Cluster } from "../src/platforms/kubernetes/client.ts";
import { type Pod, pods } from "../src/platforms/kubernetes/kinds.ts";
import {
  arrivalName,
  migrationFinalizer,
  type MigrationObject,
  migrations,
  type MigrationSpec,
  newMigrationId,
} from "../src/platforms/kubernetes/migration.ts";
import { createPeerServer, listenForPeers } from "../src/server/peer-server.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { openTrust } from "../src/trust/trust.ts";
import { temporaryDirectory } from "../src/trust/temporary-directory-for-tests.ts";
import { type BareCluster, startBareCluster } from "./bare-cluster.ts";

/** Sorts before all others. */
const evil = "aaa-evil";
const container = "c".repeat(64);
const rbac = "rbac.authorization.k8s.io/v1";

const innocent = { metadata: { name: "innocent" }, spec: { pod: "innocent", destination: "b" } };
const inEvil = { namespace: evil };

let bare: BareCluster;
let admin: Cluster;
let tenant: Cluster;
let coordinator: Cluster;
let victim: Pod;

beforeAll(async () => {
  bare = await startBareCluster();
  admin = bare.admin;
  for (const name of [evil, "shop"]) await bare.make({ apiVersion: "v1", kind: "Namespace", metadata: { name } });
  const metadata = { name: "tenant", namespace: evil };
  await bare.make({ apiVersion: "v1", kind: "ServiceAccount", metadata });
  // What the administrator of a namespace has, where somebody was generous.
  await bare.make({ apiVersion: rbac, kind: "Role", metadata, rules: [{ apiGroups: ["*"], resources: ["*"], verbs: ["*"] }] });
  const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: "tenant" };
  await bare.make({ apiVersion: rbac, kind: "RoleBinding", metadata, roleRef, subjects: [{ kind: "ServiceAccount", ...metadata }] });
  tenant = await bare.as("tenant", evil);
  coordinator = await bare.as("ums-coordinator");
  // A policy that was just made is obeyed a moment later.
  const withId = { ...innocent, spec: { ...innocent.spec, id: newMigrationId() } };
  const admitted = () => tenant.create(migrations, withId, { ...inEvil, dryRun: true });
  await vi.waitFor(() => expect(admitted()).rejects.toThrow(/UMS alone/), { timeout: 60_000, interval: 200 });
}, 180_000);
afterAll(() => bare[Symbol.asyncDispose]());

beforeEach(async () => {
  for (const namespace of [evil, "shop"])
    for (const { metadata } of (await admin.list(migrations, { namespace })).items) {
      await admin.patch(migrations, metadata.name ?? "", { metadata: { finalizers: null } }, { namespace });
      await admin.delete(migrations, metadata.name ?? "", { namespace });
    }
  victim =
    (await admin.get(pods, "victim", { namespace: "shop" })) ??
    (await admin.create(
      pods,
      { metadata: { name: "victim" }, spec: { nodeName: "a-1", containers: [{ name: "main", image: "x" }] } },
      { namespace: "shop" },
    ));
});

/** The journal of a migration that has committed, and has only to remove its source: another's pod. */
function forgedStatus(change: object = {}) {
  const at = new Date().toISOString();
  const done = { startedAt: at, doneAt: at };
  const steps = ["admit", "reserve", "pre-copy", "hold-clients", "freeze", "restore", "commit", "forward-clients"];
  const uid = victim.metadata?.uid ?? "";
  const source = {
    ...{ namespace: "shop", name: "victim", uid, node: "node-of-anybody", ports: [] },
    // As a reference, and as the place itself, which nobody takes from here any more.
    pod: { uid, network: "/proc/1/ns/net", containers: [{ name: "main", id: container, restarts: 0 }], volumes: [] },
    need: { pod: victim, volumes: [], containers: [], memoryBytes: 1 },
    ...change,
  };
  return {
    id: "abcdefabcdef",
    owner: "operator#0",
    phase: "CuttingOver",
    startedAt: at,
    facts: { source },
    journal: { steps: Object.fromEntries(steps.map((step) => [step, done])) },
  };
}

/** Those of one replica of the coordinator, with its own account. */
const records = () => createArrivalRecords(coordinator, { siteName: "a" });
const needOf = (namespace: string, name: string) =>
  ({ pod: { metadata: { namespace, name } }, containers: [], volumes: [], ports: [], memoryBytes: 1 }) as unknown as PodNeed;

/** What containerd says of the victim's only container. */
const runningVictim = (): Task => ({
  ...{ id: container, pid: 2, bundle: "/run/x", runcRoot: "/run/containerd/runc/k8s.io", network: "/var/run/netns/victim", shm: undefined },
  freezer: { version: 1, directory: "/sys/fs/cgroup/freezer/kubepods/pod-of-victim/x" },
  changesDirectory: "/var/lib/containerd/snapshots/1/fs",
  labels: { uid: victim.metadata?.uid ?? "", namespace: "shop", name: "victim", container: "main" },
});

/** The operator's own way of carrying a migration on, with its account. @returns what it asked of nodes and peers */
async function carriedOn(name: string, { forMs = 20_000 } = {}): Promise<{ asked: string[]; after: MigrationObject | undefined }> {
  const asked: string[] = [];
  const cluster = await bare.as("ums-operator");
  const stop = AbortSignal.timeout(forMs);
  const places = createPlaces({ workDirectory: temporaryDirectory(), find: async () => runningVictim() });
  const node = {
    node: "node-of-anybody",
    async leaving(id: string, action: string, { pod }: LeavingPod) {
      // As the interface itself does before it does anything.
      const { network } = (await places.kept(id, pod)) ?? {};
      asked.push(`${action} ${network} ${JSON.stringify(pod)}`);
      return {};
    },
    forwarding: async (action: string, forwarding: object) => void asked.push(`${action} ${JSON.stringify(forwarding)}`),
  } as unknown as NodeClient;
  const client = {
    async request({ method, path }: { method: string; path: string }) {
      asked.push(`${method} ${path}`);
      return {};
    },
  };
  const carrier = createCarrier({
    cluster,
    sites: {
      ownName: "a",
      find: () => ({ name: "b", addresses: ["10.9.9.9:30001"] }),
      client: () => client,
      close: () => undefined,
    } as unknown as Sites,
    interfaces: { node: async () => node, all: () => [node], close: () => undefined },
    forwardings: { takeSlot: async () => 1, endEarlier: async () => undefined },
    limits: clusterLimits,
    breakpoints: false,
    log: pino({ level: "silent" }),
    signal: stop,
    owner: "operator#1",
  });
  const object = (await admin.get(migrations, name, { namespace: evil })) as MigrationObject;
  await carrier.run(object, {
    cancelled: new AbortController().signal,
    annotations: () => ({}),
    others: () => ({ all: [object], turns: [] }),
    waits: () => undefined,
  });
  return { asked, after: await admin.get(migrations, name, { namespace: evil }) };
}

describe("a tenant with every right in a namespace", () => {
  test("moves the namespace's own pods, and cancels that", async () => {
    const { metadata, spec } = await tenant.create(migrations, innocent, inEvil);
    expect([metadata.name, spec.role]).toEqual(["innocent", "Source"]);
    expect((await tenant.patch(migrations, "innocent", { spec: { cancel: true } }, inEvil)).spec.cancel).toBe(true);
    await tenant.patch(migrations, "innocent", { metadata: { labels: { any: "one" }, finalizers: ["example.com/own"] } }, inEvil);
    await tenant.patch(migrations, "innocent", { metadata: { finalizers: null } }, inEvil);
    expect(await tenant.delete(migrations, "innocent", inEvil)).toBe(true);
  });

  test("writes no journal", async () => {
    await tenant.create(migrations, innocent, inEvil);
    const writing = { ...inEvil, subresource: "status" } as const;
    const refused = /UMS alone writes the status/;
    await expect(tenant.patch(migrations, "innocent", { status: forgedStatus() }, writing)).rejects.toThrow(refused);
    const operation = { op: "add", path: "/status", value: forgedStatus() } as const;
    await expect(tenant.patch(migrations, "innocent", [operation], writing)).rejects.toThrow(refused);
    const object = (await tenant.get(migrations, "innocent", inEvil)) as MigrationObject;
    await expect(
      tenant.replace(migrations, { ...object, status: forgedStatus() as MigrationObject["status"] & object }, writing),
    ).rejects.toThrow(refused);
    // Not with the object itself either: there the API server drops it.
    await tenant.replace(migrations, { ...object, status: forgedStatus() as MigrationObject["status"] & object }, inEvil);
    expect((await admin.get(migrations, "innocent", inEvil))?.status).toBeUndefined();
  });

  test("chooses no id, neither at once nor later, and no name of UMS's own", async () => {
    const id = newMigrationId();
    await expect(tenant.create(migrations, { ...innocent, spec: { ...innocent.spec, id } }, inEvil)).rejects.toThrow(
      /UMS alone chooses the id/,
    );
    await expect(tenant.create(migrations, { ...innocent, metadata: { name: arrivalName(id) } }, inEvil)).rejects.toThrow(/called arrival/);
    await tenant.create(migrations, innocent, inEvil);
    await expect(tenant.patch(migrations, "innocent", { spec: { id } }, inEvil)).rejects.toThrow(
      /id can't be changed|UMS alone chooses the id/,
    );
    // Also in the operator's own hands: what was asked for is done under its name and id.
    await expect(admin.patch(migrations, "innocent", { spec: { id } }, inEvil)).rejects.toThrow(/id can't be changed/);
    await expect(tenant.patch(migrations, "innocent", { spec: { rename: "other" } }, inEvil)).rejects.toThrow(/rename can't be changed/);
  });

  test("takes no Migration from UMS that has not ended", async () => {
    await tenant.create(migrations, innocent, inEvil);
    await admin.patch(migrations, "innocent", { metadata: { finalizers: [migrationFinalizer] } }, inEvil);
    const taking = tenant.patch(migrations, "innocent", { metadata: { finalizers: null } }, inEvil);
    await expect(taking).rejects.toThrow(/UMS alone takes its finalizer/);
  });

  test("makes and changes nothing that arrives", async () => {
    const id = newMigrationId();
    const spec: MigrationSpec = { role: "Destination", pod: "web", destination: "a", peer: "b", id };
    const label = { "ums.dev/arrival": id };
    const forged = tenant.create(migrations, { metadata: { name: arrivalName(id), labels: label }, spec }, inEvil);
    await expect(forged).rejects.toThrow(/UMS alone makes and changes Migrations of role Destination/);
    await records().create({ id, peer: "b", need: needOf(evil, "web") });
    for (const change of [
      { metadata: { finalizers: null } },
      { metadata: { labels: { "ums.dev/arrival": null } } },
      { spec: { cancel: true } },
    ])
      await expect(tenant.patch(migrations, arrivalName(id), change, inEvil)).rejects.toThrow(/UMS alone/);
  });
});

describe("the record of an arrival", () => {
  test("is what the coordinator has made, whatever else bears its label", async () => {
    const id = newMigrationId();
    await records().create({ id, peer: "b", need: needOf("shop", "web") });
    const labels = { "ums.dev/arrival": id };
    await tenant.create(migrations, { metadata: { name: "first", labels }, spec: { pod: "web", destination: "a" } }, inEvil);
    expect(await records().decide(id, "committed")).toBe("committed");
    const found = await records().find(id);
    expect(found).toMatchObject({ id, peer: "b", facts: { verdict: "committed", need: { pod: { metadata: { namespace: "shop" } } } } });
    expect((await records().unfinished()).filter((each) => each.id === id || each.id === "")).toHaveLength(1);
  });

  test("that says another's pod is its own is gone by for nothing, and keeps no other from its end", async () => {
    const [id, other] = [newMigrationId(), newMigrationId()];
    for (const each of [id, other]) await records().create({ id: each, peer: "b", need: needOf("shop", `web-${each}`) });
    const status = { facts: { need: needOf("kube-system", "victim"), podUid: victim.metadata?.uid, node: "a-1" } };
    await admin.patch(migrations, arrivalName(id), { status }, { namespace: "shop", subresource: "status" });
    await expect(records().find(id)).rejects.toMatchObject({ code: "JOURNAL_CONTRADICTS" });
    const open = (await records().unfinished()).map((each) => each.id);
    expect([open.includes(id), open.includes(other)]).toEqual([false, true]);
  });
});

test("a journal that says another's pod is its own has the operator do nothing to anybody", async () => {
  await tenant.create(migrations, innocent, inEvil);
  await admin.patch(migrations, "innocent", { status: forgedStatus() }, { ...inEvil, subresource: "status" });
  const { asked, after } = await carriedOn("innocent");
  expect(asked).toEqual([]);
  expect((await admin.get(pods, "victim", { namespace: "shop" }))?.metadata?.deletionTimestamp).toBeUndefined();
  expect(after?.status).toMatchObject({ phase: "Failed", error: { code: "JOURNAL_CONTRADICTS" } });
});

test("nor does one whose pod is another's below the name of its own, or whose data goes to another site", async () => {
  for (const change of [
    { namespace: evil, name: "innocent" },
    { namespace: evil, name: "innocent", need: { pod: { metadata: { namespace: evil, name: "innocent" } } }, target: { site: "c" } },
  ]) {
    await admin.create(migrations, innocent, inEvil);
    await admin.patch(migrations, "innocent", { status: forgedStatus(change) }, { ...inEvil, subresource: "status" });
    const { asked, after } = await carriedOn("innocent");
    expect(asked).toEqual([]);
    expect(after?.status).toMatchObject({ phase: "Failed", error: { code: "JOURNAL_CONTRADICTS" } });
    await admin.patch(migrations, "innocent", { metadata: { finalizers: null } }, inEvil);
    await admin.delete(migrations, "innocent", inEvil);
  }
});

test("one that has another's pod under its own name is refused by that one's node", async () => {
  await admin.create(migrations, innocent, inEvil);
  const own = { namespace: evil, name: "innocent" };
  const status = forgedStatus({ ...own, need: { pod: { metadata: own }, volumes: [], containers: [], memoryBytes: 1 } });
  await admin.patch(migrations, "innocent", { status }, { ...inEvil, subresource: "status" });
  const { asked, after } = await carriedOn("innocent", { forMs: 4_000 });
  expect(asked).toEqual([]);
  expect(after?.status?.waiting).toContain(`is not container main of pod ${evil}/innocent`);
  expect((await admin.get(pods, "victim", { namespace: "shop" }))?.metadata?.deletionTimestamp).toBeUndefined();
});

describe("a person's token", () => {
  /** A coordinator's port on this machine. @returns asks it as docs/kubernetes.md has it */
  async function coordinatorPort() {
    const trust = await openTrust(openTrustFiles(temporaryDirectory()), "a");
    const api = fastify();
    api.get("/list", () => ["answered"]);
    for (const path of ["/migrate", "/sites/pair"]) api.post(path, () => ["answered"]);
    await api.ready();
    const log = pino({ level: "silent" });
    const people = createPeople(coordinator, api);
    const app = createPeerServer({ trust, people, registerPeerRoutes: () => undefined, onData: (socket) => void socket.destroy(), log });
    await listenForPeers(app, { host: "127.0.0.1", port: 0 });
    onTestFinished(async () => {
      await app.close();
      trust.close();
    });
    const authority = join(temporaryDirectory(), "ums.crt");
    await writeFile(authority, trust.certificate);
    const { port } = app.server.address() as { port: number };
    return async (token: string, { known = ["--cacert", authority], method = "GET", path = "/list" } = {}) => {
      const asked = ["--connect-to", `ums:443:127.0.0.1:${port}`, "--header", `Authorization: Bearer ${token}`, `https://ums${path}`];
      asked.push("--request", method);
      const written = ["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"];
      return await execa("curl", [...known, ...written, ...asked], { reject: false, timeout: 20_000 });
    };
  }

  /** The token of an account with these rights in the whole cluster. */
  async function tokenWith(name: string, rules: readonly { resources: string[]; verbs: string[] }[]): Promise<string> {
    const metadata = { name };
    const roleRef = { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name };
    const subjects = [{ kind: "ServiceAccount", name, namespace: "default" }];
    await bare.make({ apiVersion: "v1", kind: "ServiceAccount", metadata });
    await bare.make({ apiVersion: rbac, kind: "ClusterRole", metadata, rules: rules.map((rule) => ({ apiGroups: ["ums.dev"], ...rule })) });
    await bare.make({ apiVersion: rbac, kind: "ClusterRoleBinding", metadata, roleRef, subjects });
    return await bare.tokenOf(name, { audience: "ums" });
  }
  const moving = { resources: ["migrations"], verbs: ["create", "list"] };

  test("is good for UMS, by its audience, and for nothing else; curl knows the coordinator by its site's authority", async () => {
    const token = await tokenWith("mover", [moving]);
    const ask = await coordinatorPort();
    expect(await ask(token)).toMatchObject({ exitCode: 0, stdout: "200" });
    expect(await ask(await bare.tokenOf("mover"))).toMatchObject({ exitCode: 0, stdout: "401" });
    expect(await ask(await bare.tokenOf("mover", { audience: "others" }))).toMatchObject({ exitCode: 0, stdout: "401" });
    expect(await ask(token, { known: [] })).toMatchObject({ exitCode: 60 }); // it believes nobody else
    const stolen = await bare.connect(await bare.server.kubeconfigFor(token));
    await expect(stolen.list(migrations, { namespace: undefined })).rejects.toMatchObject({ code: "CLUSTER_FORBIDS", status: 401 });
  });

  test("moves, by the right to create Migrations, and pairs by one of its own, however the path is spelt", async () => {
    const ask = await coordinatorPort();
    const [moves, pairs] = [await tokenWith("moves", [moving]), await tokenWith("pairs", [{ resources: ["sites"], verbs: ["create"] }])];
    const statuses = async (path: string) =>
      await Promise.all([moves, pairs].map(async (token) => (await ask(token, { method: "POST", path })).stdout));
    expect(await statuses("/migrate")).toEqual(["200", "403"]);
    expect(await statuses("/sites/pair")).toEqual(["403", "200"]);
    for (const path of ["/%73ites/pair", "//sites/pair", "/migrate%2f..%2fsites/pair"]) expect((await statuses(path))[0]).toBe("403");
  });
});
