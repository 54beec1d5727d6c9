/** What UMS keeps in a cluster, on a real API server. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { type CarrierParts, createCarrier, type Turn } from "../src/apps/operator/carrier.ts";
import { createPeerServer, listenForPeers } from "../src/server/peer-server.ts";
import { describeJournal } from "../src/engine/journal.contract.ts";
import type { Change, Cluster } from "../src/platforms/kubernetes/client.ts";
import { openRecord } from "../src/platforms/kubernetes/journal.ts";
import {
  configMaps,
  events,
  type KubernetesObject,
  leases,
  namespaces,
  nodes,
  pods,
  secrets,
  services,
} from "../src/platforms/kubernetes/kinds.ts";
import { standForLeader, type Tenure } from "../src/platforms/kubernetes/lease.ts";
import {
  migrationFinalizer,
  migrationName,
  type MigrationObject,
  migrations,
  type MigrationSpec,
  newMigrationId,
} from "../src/platforms/kubernetes/migration.ts";
import { nodeTrustSecretName, openTrustSecret, trustSecretName } from "../src/platforms/kubernetes/trust-store.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { createPairing } from "../src/trust/pairing.ts";
import { temporaryDirectory } from "../src/trust/temporary-directory-for-tests.ts";
import { shareWithNodes } from "../src/trust/share.ts";
import { openTrust } from "../src/trust/trust.ts";
import type { ApiServer } from "./api-server.ts";
import { type BareCluster, manifests, startBareCluster } from "./bare-cluster.ts";

const namespace = "default";
const refused = (code: string) => expect.objectContaining({ code });

let bare: BareCluster;
let server: ApiServer;
let admin: Cluster;
const connect = (kubeconfig: string) => bare.connect(kubeconfig);
/** The cluster as one of UMS's own accounts sees it. */
const as = (account: string) => bare.as(account);

beforeAll(async () => {
  bare = await startBareCluster();
  ({ server, admin } = bare);
}, 180_000);
afterAll(() => bare[Symbol.asyncDispose]());

async function createMigration(spec: Partial<MigrationSpec> = {}): Promise<string> {
  const name = migrationName(newMigrationId());
  await admin.create(migrations, { metadata: { name }, spec: { pod: "redis", destination: "west", ...spec } });
  return name;
}

const forever = new AbortController().signal;
const open = async (name: string, { cluster = admin, owner = "operator-1#1", signal = forever } = {}) =>
  await openRecord({ cluster, namespace, name, owner, signal });

describeJournal("The journal in a Migration's status", async () => {
  const name = await createMigration();
  return {
    open: async () => (await open(name)).journal,
    dispose: async () => void (await admin.delete(migrations, name)),
  };
});

describe("a Migration", () => {
  test("is refused where its specification says something else than it may", async () => {
    const create = (spec: object) =>
      admin.create(migrations, { metadata: { generateName: "bad-" }, spec: spec as MigrationSpec }, { strict: true });
    for (const spec of [
      {},
      { pod: "redis" },
      { pod: "Redis", destination: "west" },
      { pod: "redis", destination: "a b" },
      { pod: "redis", destination: "west", role: "Onlooker" },
      { pod: "redis", destination: "west", id: "xyz" },
      { pod: "redis", destination: "west", keep: "true" },
      { pod: "redis", destination: "west", role: "Destination" },
      { pod: "redis", destination: "west", unknown: 1 },
    ]) {
      await expect(create(spec), JSON.stringify(spec)).rejects.toThrow(refused("CLUSTER_REFUSED"));
    }
    for (const destination of ["west", "west.example:30001", "[fd00::1]:30001"]) {
      expect((await create({ pod: "redis-0", destination })).spec.role).toBe("Source");
    }
    await create({ pod: "redis", destination: "here", role: "Destination", peer: "east", id: newMigrationId() });
  });

  test("can be cancelled, and changed in nothing else", async () => {
    const name = await createMigration();
    await expect(admin.patch(migrations, name, { spec: { destination: "east" } })).rejects.toThrow(/destination can't be changed/);
    expect((await admin.patch(migrations, name, { spec: { cancel: true } })).spec.cancel).toBe(true);
  });

  test("stays until its finalizer is taken away", async () => {
    const name = await createMigration();
    await admin.patch(migrations, name, { metadata: { finalizers: [migrationFinalizer] } });
    expect(await admin.delete(migrations, name)).toBe(true);
    expect((await admin.get(migrations, name))?.metadata.deletionTimestamp).toBeDefined();
    await admin.patch(migrations, name, { metadata: { finalizers: null } });
    expect(await admin.get(migrations, name)).toBeUndefined();
    expect(await admin.delete(migrations, name)).toBe(false);
  });
});

describe("the record of a migration", () => {
  test("keeps facts, also for the next owner", async () => {
    const name = await createMigration();
    const record = await open(name);
    await record.setFact("freezer", { state: "frozen", "a/b~c": [1] });
    await record.setFact("gone/with~slash", 1);
    await record.setFact("gone/with~slash", undefined);
    expect(record.fact("freezer")).toEqual({ state: "frozen", "a/b~c": [1] });
    const next = await open(name, { owner: "operator-2#2" });
    expect([next.fact("freezer"), next.fact("gone/with~slash")]).toEqual([{ state: "frozen", "a/b~c": [1] }, undefined]);
  });

  test("refuses every write of an owner that another one has relieved", async () => {
    const name = await createMigration();
    const old = await open(name);
    await old.journal.start("reserve");
    const next = await open(name, { owner: "operator-2#2" });
    for (const write of [
      () => old.journal.start("freeze"),
      () => old.journal.undone("reserve"),
      () => old.journal.fail(new Error("x")),
      () => old.setFact("x", 1),
    ]) {
      await expect(write()).rejects.toMatchObject({ name: "TakenOver" });
    }
    expect(old.journal.isStarted("freeze")).toBe(false);
    await next.journal.start("freeze");
    expect((await admin.get(migrations, name))?.status).toMatchObject({
      owner: "operator-2#2",
      journal: { steps: { reserve: { startedAt: expect.any(String) }, freeze: { startedAt: expect.any(String) } } },
    });
  });

  test("refuses to write into another object of the same name, and where there is none", async () => {
    const name = await createMigration();
    const record = await open(name);
    await admin.delete(migrations, name);
    await expect(record.journal.start("freeze")).rejects.toMatchObject({ name: "TakenOver" });
    await admin.create(migrations, { metadata: { name }, spec: { pod: "redis", destination: "west" } });
    await open(name);
    await expect(record.journal.start("freeze")).rejects.toMatchObject({ name: "TakenOver" });
    await expect(open("mig-nosuchone")).rejects.toThrow(refused("MIGRATION_NOT_FOUND"));
  });

  test("minds nobody's edits of something else", async () => {
    const name = await createMigration();
    const record = await open(name);
    await Promise.all([
      (async () => {
        for (let i = 0; i < 20; i++) await admin.patch(migrations, name, { metadata: { labels: { count: String(i) } } });
      })(),
      (async () => {
        for (let i = 0; i < 20; i++) await record.journal.start(`step-${i}`);
      })(),
      ...["a", "b", "c"].map((fact) => record.setFact(fact, fact)),
    ]);
    const found = await open(name);
    expect(Array.from({ length: 20 }, (_, i) => found.journal.isStarted(`step-${i}`)).every(Boolean)).toBe(true);
    expect(["a", "b", "c"].map((fact) => found.fact(fact))).toEqual(["a", "b", "c"]);
  });

  test("shows people what is reported, the newest soon and all of it when it is flushed", async () => {
    const name = await createMigration();
    const record = await open(name);
    const before = (await admin.get(migrations, name))?.metadata.resourceVersion;
    for (let i = 0; i < 50; i++) record.report({ bytesSent: i, phase: "Transferring", waiting: "for something" });
    await record.flush();
    const notes = [{ site: "beta", detail: "Its log is another one." }];
    record.report({ phase: "Succeeded", waiting: undefined, heldMs: 12.5, notes });
    await record.journal.done("clean-up");
    await record.flush();
    const shown = await admin.get(migrations, name);
    expect(shown?.status).toMatchObject({
      bytesSent: 49,
      phase: "Succeeded",
      heldMs: 12.5,
      notes,
      conditions: [{ status: "True" }, { status: "False" }],
    });
    expect(shown?.status).not.toHaveProperty("waiting");
    expect(shown?.status?.journal?.steps["clean-up"]?.doneAt).toBeDefined();
    expect(Number(shown?.metadata.resourceVersion) - Number(before)).toBeLessThan(10);
    record.report({ phase: "Failed" });
    await vi.waitFor(async () => expect((await admin.get(migrations, name))?.status?.phase).toBe("Failed"));
  });

  test("that has ended is not taken up again by an operator that has not heard of its end", async () => {
    const name = await createMigration();
    const known = await admin.get(migrations, name);
    const record = await open(name);
    record.report({ phase: "Succeeded", endedAt: new Date().toISOString() });
    await record.flush();
    const parts = { cluster: admin, owner: "another", signal: new AbortController().signal, log: pino({ level: "silent" }) };
    await createCarrier(parts as CarrierParts).run(known as MigrationObject, {} as Turn);
    expect((await admin.get(migrations, name))?.status?.phase).toBe("Succeeded");
  });

  test("waits for an API server that is stopped, until it is told not to", async () => {
    const name = await createMigration();
    const stop = new AbortController();
    const record = await open(name, { signal: stop.signal });
    await server.stop();
    let startedAgain = false;
    try {
      await expect(admin.get(migrations, name)).rejects.toThrow(refused("API_SERVER_UNREACHABLE"));
      const written = record.journal.start("freeze").then(() => expect(startedAgain).toBe(true));
      await sleep(1_500);
      startedAgain = true;
      await server.start();
      await written;
      expect((await open(name)).journal.isStarted("freeze")).toBe(true);
      await server.stop();
      const given = record.journal.start("restore");
      stop.abort(new Error("shutting down"));
      await expect(given).rejects.toThrow("shutting down");
    } finally {
      await server.start();
    }
  });
});

describe("a watch", () => {
  test("tells what is there, what changes, and what changed while the server was gone", async () => {
    const stop = new AbortController();
    onTestFinished(() => stop.abort());
    const names: string[] = [];
    const label = `watch-${newMigrationId()}`;
    const make = async (name: string) =>
      await admin.create(configMaps, { metadata: { name: `${label}-${name}`, labels: { watch: label } }, data: { value: "1" } });
    await make("a");
    const seen: Change<KubernetesObject>[] = [];
    const troubles: unknown[] = [];
    const watching = (async () => {
      const options = {
        namespace,
        labelSelector: `watch=${label}`,
        signal: stop.signal,
        onTrouble: (error: unknown) => troubles.push(error),
      };
      for await (const change of admin.watch(configMaps, options)) {
        seen.push(change);
        names.push(`${change.type} ${change.object.metadata?.name?.slice(label.length + 1)} ${change.object.data?.["value"]}`);
      }
    })();
    const told = async (...expected: string[]) =>
      await vi.waitFor(() => expect(names).toEqual(expected), { timeout: 20_000, interval: 50 });
    await told("present a 1");
    await make("b");
    await admin.patch(configMaps, `${label}-b`, { data: { value: "2" } });
    await told("present a 1", "present b 1", "present b 2");
    await server.stop();
    await vi.waitFor(() => expect(troubles.length).toBeGreaterThan(0), { timeout: 10_000 });
    await server.start();
    await admin.delete(configMaps, `${label}-a`);
    await told("present a 1", "present b 1", "present b 2", "gone a 1");
    expect(seen[0]?.object.kind).toBe("ConfigMap");
    stop.abort();
    await watching;
  });
});

describe("the leader", () => {
  const candidate = (cluster: Cluster, name: string, identity: string, log: string[], times = { leaseMs: 3_000, retryMs: 300 }) => {
    const stop = new AbortController();
    const tenures: Tenure[] = [];
    const standing = standForLeader({
      cluster,
      namespace,
      name,
      identity,
      signal: stop.signal,
      ...times,
      async lead(tenure) {
        tenures.push(tenure);
        log.push(`${identity} leads`);
        await new Promise<void>((resolve) => tenure.signal.addEventListener("abort", () => resolve()));
        log.push(`${identity} stops`);
      },
    });
    const end = async () => {
      stop.abort();
      await standing;
    };
    onTestFinished(end);
    return { end, tenures };
  };

  test("is one of two; the other takes over at once when it ends", async () => {
    const cluster = await as("ums-operator");
    const log: string[] = [];
    const name = "migration-operator";
    const first = candidate(cluster, name, "one", log);
    await vi.waitFor(() => expect(log).toEqual(["one leads"]), { timeout: 5_000 });
    const second = candidate(cluster, name, "two", log);
    await sleep(4_000);
    expect(log).toEqual(["one leads"]);
    await first.end();
    await vi.waitFor(() => expect(log).toEqual(["one leads", "one stops", "two leads"]), { timeout: 2_000 });
    expect(first.tenures[0]?.owner).not.toBe(second.tenures[0]?.owner);
    await second.end();
    expect((await admin.get(leases, name))?.spec?.holderIdentity).toBe("");
  });

  test("stops before another one begins when it is cut off", async () => {
    const log: string[] = [];
    // A leader whose API server is gone: its connection leads nowhere from some moment on.
    const own = await connect(server.kubeconfig);
    const gone = new Error("cut off");
    let isCut = false;
    const cut: Cluster = {
      ...own,
      get: async (...args) => (isCut ? Promise.reject(gone) : await own.get(...args)),
      replace: async (...args) => (isCut ? Promise.reject(gone) : await own.replace(...args)),
    };
    const first = candidate(cut, "cut-off", "one", log);
    await vi.waitFor(() => expect(log).toEqual(["one leads"]), { timeout: 5_000 });
    candidate(admin, "cut-off", "two", log);
    await sleep(1_000);
    isCut = true;
    await vi.waitFor(() => expect(log).toEqual(["one leads", "one stops", "two leads"]), { timeout: 10_000 });
    expect(first.tenures[0]?.signal.aborted).toBe(true);
    isCut = false;
    await sleep(1_000);
    expect(log).toHaveLength(3);
  });

  test("loses a lease that somebody else wrote his name into", async () => {
    const log: string[] = [];
    candidate(admin, "stolen", "one", log);
    await vi.waitFor(() => expect(log).toEqual(["one leads"]), { timeout: 5_000 });
    await admin.patch(leases, "stolen", { spec: { holderIdentity: "two", leaseTransitions: 7 } });
    await vi.waitFor(() => expect(log).toEqual(["one leads", "one stops"]), { timeout: 3_000 });
    // Nobody renews it, so it falls back in time.
    await vi.waitFor(() => expect(log).toEqual(["one leads", "one stops", "one leads"]), { timeout: 10_000 });
  });
});

describe("the site's keys and peers", () => {
  async function replica(account = "ums-coordinator", options: { makesKeys?: boolean } = {}) {
    const stop = new AbortController();
    const store = openTrustSecret(await as(account), { signal: stop.signal });
    const trust = await openTrust(store, "cluster", { ...options, signal: stop.signal });
    const server = createPeerServer({
      trust,
      pairing: {
        issueCode: () => pairing.issueCode(),
        answer: (...args) => pairing.answer(...args),
        pairWith: (each) => pairing.pairWith(each),
      },
      registerPeerRoutes: () => undefined,
      onData: (socket) => void socket.destroy(),
      log: pino({ level: "silent" }),
    });
    await listenForPeers(server, { host: "127.0.0.1", port: 0 });
    const { port } = server.server.address() as { port: number };
    const pairing = createPairing({ trust, addresses: [], port });
    onTestFinished(async () => {
      stop.abort();
      await server.close();
      trust.close();
    });
    return { trust, store, pairing, address: `127.0.0.1:${port}` };
  }
  async function host(name: string) {
    const trust = await openTrust(openTrustFiles(temporaryDirectory()), name);
    onTestFinished(() => trust.close());
    return { trust, pairing: createPairing({ trust, addresses: ["127.0.0.1:7443"], port: 7443 }) };
  }
  const signal = () => AbortSignal.timeout(10_000);

  test("are made once, by two replicas that start together, and found by the parts that make none", async () => {
    const waiting = replica("ums-operator", { makesKeys: false });
    const [a, b] = await Promise.all([replica(), replica()]);
    const c = await waiting;
    expect(new Set([a, b, c].map(({ trust }) => trust.fingerprint)).size).toBe(1);
    await vi.waitFor(() => expect(a.trust.serverOptions().cert).toBe(b.trust.serverOptions().cert), { timeout: 5_000 });
  });

  test("are the same in all replicas: one issues the code, another answers, both know the peer, and both forget it", async () => {
    const [a, b, east] = [await replica(), await replica(), await host("east")];
    const { code } = await a.pairing.issueCode();
    await east.pairing.pairWith({ address: b.address, code, signal: signal() });
    expect(b.trust.peer("east")?.certificate).toBe(east.trust.certificate);
    await vi.waitFor(() => expect(a.trust.peer("east")?.certificate).toBe(east.trust.certificate), { timeout: 5_000 });
    const again = await host("again");
    await expect(again.pairing.pairWith({ address: a.address, code, signal: signal() })).rejects.toThrow(refused("PAIRING_REFUSED"));
    await a.trust.removePeer("east");
    await vi.waitFor(() => expect(b.trust.peer("east")).toBeUndefined(), { timeout: 5_000 });
  });

  test("a code is good once, also when both replicas are asked at the same moment; wrong tries at both leave it as it is", async () => {
    const [a, b] = [await replica(), await replica()];
    const { code } = await a.pairing.issueCode();
    const [north, south] = [await host("north"), await host("south")];
    const results = await Promise.allSettled([
      north.pairing.pairWith({ address: a.address, code, signal: signal() }),
      south.pairing.pairWith({ address: b.address, code, signal: signal() }),
    ]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);

    const next = await b.pairing.issueCode();
    const wrong = `${next.code.startsWith("0") ? "1" : "0"}${next.code.slice(1)}`;
    for (const { address } of [a, b, a, b, a]) {
      await expect(north.pairing.pairWith({ address, code: wrong, signal: signal() })).rejects.toThrow(refused("PAIRING_REFUSED"));
    }
    const { name } = await north.pairing.pairWith({ address: a.address, code: next.code, signal: signal() });
    expect(name).toBe(a.trust.siteName);
  });

  test("reach the nodes as no more than these need, and a node reads nothing else", async () => {
    const stop = new AbortController();
    const { signal } = stop;
    const { trust } = await replica();
    const troubles: unknown[] = [];
    const secretName = nodeTrustSecretName;
    const shared = openTrustSecret(await as("ums-coordinator"), { secretName, signal });
    const sharing = shareWithNodes(trust, shared, { signal, onTrouble: (cause) => troubles.push(cause) });
    const account = await as("ums-interface");
    const node = await openTrust(openTrustSecret(account, { secretName, signal }), "cluster", { role: "node", signal });
    onTestFinished(async () => {
      stop.abort();
      await sharing;
      node.close();
    });
    expect(node.fingerprint).toBe(trust.fingerprint);
    expect(troubles).toEqual([]);
    await expect(openTrustSecret(account, { signal }).read()).rejects.toThrow(refused("CLUSTER_FORBIDS"));
  });

  test("come back where somebody deleted the Secret", async () => {
    const store = openTrustSecret(admin, { signal: forever });
    await admin.delete(secrets, trustSecretName);
    const wrote = await Promise.all(["1", "2", "3"].map(async (each) => await store.update("pairing-offer", (current) => current ?? each)));
    expect(new Set(wrote).size).toBe(1);
    expect(await store.update("pairing-offer", () => undefined)).toBeUndefined();
    expect(await store.read()).toEqual(new Map());
  });
});

describe("what UMS's accounts may do", () => {
  test("is no more than their roles say", async () => {
    const [coordinator, operator, node, users] = await Promise.all(
      ["ums-coordinator", "ums-operator", "ums-interface", "migration-coordinator"].map(as),
    );
    const forbidden = refused("CLUSTER_FORBIDS");
    const all = { namespace };
    for (const each of [coordinator, operator, node]) {
      await expect(each?.list(secrets, all)).rejects.toThrow(forbidden);
      await expect(each?.get(secrets, "another")).rejects.toThrow(forbidden);
      await expect(each?.create(secrets, { metadata: { name: "another" } })).rejects.toThrow(forbidden);
    }
    expect((await coordinator?.list(pods, { namespace: undefined }))?.items).toEqual([]);
    expect((await operator?.list(pods, { namespace: undefined }))?.items).toEqual([]);
    await expect(operator?.patch(pods, "any", { metadata: { labels: { any: "any" } } })).rejects.toThrow(forbidden);
    await expect(users?.list(pods, all)).rejects.toThrow(forbidden);
    await expect(node?.list(pods, all)).rejects.toThrow(forbidden);
    await expect(node?.delete(pods, "any")).rejects.toThrow(forbidden);
    await expect(node?.list(migrations, all)).rejects.toThrow(forbidden);
    await expect(operator?.create(pods, { metadata: { name: "x" } })).rejects.toThrow(forbidden);
    await expect(coordinator?.list(nodes, { namespace: undefined })).rejects.toThrow(forbidden);
    expect((await operator?.list(migrations, { namespace: undefined }))?.items).toBeDefined();
    await expect(operator?.create(services, { metadata: { name: "x" } })).rejects.toThrow(forbidden);
  });

  test("is enough to judge a person's token", async () => {
    const coordinator = await as("ums-coordinator");
    const user = await coordinator.reviewToken(await bare.tokenOf("ums-operator"));
    expect(user?.username).toBe("system:serviceaccount:default:ums-operator");
    expect(await coordinator.reviewToken("nonsense")).toBeUndefined();
    const may = async (verb: string, resource: string, group = "") =>
      user && (await coordinator.isAllowed(user, { verb, group, resource, namespace: "default" }));
    expect([await may("create", "migrations", "ums.dev"), await may("delete", "pods"), await may("create", "pods")]).toEqual([
      true,
      true,
      false,
    ]);
  });

  test("is enough to run a migration's record and to tell it in events", async () => {
    const operator = await as("ums-operator");
    const name = await createMigration();
    const record = await open(name, { cluster: operator });
    await record.journal.start("freeze");
    await operator.patch(migrations, name, { metadata: { finalizers: [migrationFinalizer] } });
    await operator.patch(migrations, name, { metadata: { finalizers: [] } });
    const { metadata } = (await operator.get(migrations, name)) as MigrationObject;
    const time = new Date().toISOString();
    await operator.create(events, {
      metadata: { generateName: "ums-", namespace },
      involvedObject: { apiVersion: "ums.dev/v1", kind: "Migration", name, namespace, uid: metadata.uid ?? "" },
      type: "migration",
      reason: "ready",
      message: "told",
      firstTimestamp: time,
      lastTimestamp: time,
      count: 1,
      source: { component: "ums" },
    });
  });
});

describe("kubectl", () => {
  test("shows how far a migration is, and waits for it", async () => {
    const name = await createMigration({ pod: "redis-0", destination: "west.example:30001" });
    const record = await open(name);
    record.report({ id: name.slice(4), phase: "Transferring" });
    await record.flush();
    const waiting = server.kubectl("wait", "--for=condition=Succeeded", "--timeout=20s", `mig/${name}`);
    record.report({ phase: "Succeeded", heldMs: 211.5 });
    expect(await waiting).toContain("condition met");
    const [head, line] = (await server.kubectl("get", "mig", name)).split("\n");
    expect(head?.split(/\s+/)).toEqual(["NAME", "POD", "DESTINATION", "PHASE", "DOWNTIME", "AGE"]);
    expect(line?.split(/\s+/).slice(0, 5)).toEqual([name, "redis-0", "west.example:30001", "Succeeded", "211.5"]);
    expect(await server.kubectl("explain", "migration.spec.destination")).toContain("The site it goes to");
  });

  test("applies each file on its own, all of them, and all of them again without touching the keys", async () => {
    for (const file of ["crd.yml", "rbac.yml", "deployment.yml", "ssu-crd.yml", "ssu.yml"]) {
      await server.kubectl("apply", "--dry-run=server", "-f", join(manifests, file));
    }
    await server.kubectl("apply", "-k", manifests);
    const store = openTrustSecret(admin, { signal: forever });
    await store.update("pairing-offer", () => "kept");
    const applied = await server.kubectl("apply", "-k", manifests);
    for (const secret of [trustSecretName, nodeTrustSecretName]) expect(applied).toContain(`secret/${secret} unchanged`);
    expect((await store.read()).get("pairing-offer")).toBe("kept");
    await store.update("pairing-offer", () => undefined);
  });
});

describe("a creation", () => {
  test("that is a dry run says what a real one would, and stores nothing", async () => {
    const pod = { metadata: { name: "dry" }, spec: { containers: [{ name: "c", image: "x" }] } };
    expect((await admin.create(pods, pod, { dryRun: true })).spec?.restartPolicy).toBe("Always");
    expect(await admin.get(pods, "dry")).toBeUndefined();
    const bad = { metadata: { name: "Bad Name" }, spec: { containers: [] } };
    await expect(admin.create(pods, bad, { dryRun: true })).rejects.toThrow(refused("CLUSTER_REFUSED"));
    await expect(admin.create(namespaces, { metadata: { name: "default" } })).rejects.toThrow(refused("OBJECT_EXISTS"));
  });
});
