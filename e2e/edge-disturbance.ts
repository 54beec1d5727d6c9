/**
 * What dies in the middle of a migration between a cluster and a host, in either direction, and what must hold afterwards:
 * as `disturbance.ts` between hosts and `kubernetes-disturbance.ts` between clusters.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { pods } from "../src/platforms/kubernetes/kinds.ts";
import { migrations } from "../src/platforms/kubernetes/migration.ts";
import { startClient } from "./client.ts";
import { type ClusterAndHost, createClusterAndHost } from "./cluster-host.ts";
import { atBreakpoint as atClustersBreakpoint, createMigration, setBreakpoint as setClustersBreakpoint } from "./cluster-migrations.ts";
import { followedMs, movable, moved, served } from "./cluster-sites.ts";
import { type Traces, tracesIn, tracesSince } from "./cluster-traces.ts";
import {
  atBreakpoint as atHostsBreakpoint,
  clearBreakpoint,
  copiesOn as copiesOnHost,
  expectNothingLost,
  impatient,
  lostWithPower,
  type Moment,
  moments,
  setBreakpoint as setHostsBreakpoint,
  type Step,
  steps,
  type Tried,
  watchCopies,
} from "./disturbance.ts";
import { imageReference, runOnce } from "./images.ts";
import { type Inventory, inventoryChanges } from "./hosts.ts";
import { copiesOn as copiesOnNode, leader, refreshPartsOf, signalPart } from "./kubernetes-disturbance.ts";
import { redisImage, redisImageName, redisNodePort, startRedisPod } from "./redis-pod.ts";

const edgeVictims = ["the operator", "the coordinator", "the interface", "ums serve", "power of the host", "the link"] as const;
type EdgeVictim = (typeof edgeVictims)[number];
const kinds = ["cluster", "host"] as const;
type Kind = (typeof kinds)[number];
export type EdgeCase = Readonly<{ from: Kind; step: Step; moment: Moment; victim: EdgeVictim }>;

const hasBegun = ({ step, moment }: EdgeCase, begun: Step) =>
  steps.indexOf(step) > steps.indexOf(begun) || (step === begun && moment === "after");
/** A host without power takes the memory of what runs there along, as without UMS. */
const losesMemory = (which: EdgeCase) =>
  which.victim === "power of the host" && (which.from === "host" ? !hasBegun(which, "restore") : hasBegun(which, "commit"));

/** Every step, both moments, both directions, every victim. */
export const allEdgeCases: readonly EdgeCase[] = kinds
  .flatMap((from) => steps.flatMap((step) => moments.flatMap((moment) => edgeVictims.map((victim) => ({ from, step, moment, victim })))))
  .filter((which) => !losesMemory(which));

const service = "redis";
const hostPort = 7000;
const linkDownMs = 4_000;
const settleMs = 150_000;

/** A cluster and a host on which one case after another can be tried. */
export type EdgeGround = AsyncDisposable &
  Readonly<{
    /** @throws Error naming the promise that was broken */
    tryCase(which: EdgeCase): Promise<Tried>;
  }>;

type Before = Readonly<{ cluster: Traces; host: Inventory }>;

export async function createEdgeGround(): Promise<EdgeGround> {
  const sites = await createClusterAndHost({ images: [await redisImage()], configuration: impatient });
  try {
    // What Podman and UMS keep for good after their first time is no trace of a later migration.
    await sites.host.host.podman(["pull", "--quiet", redisImageName]);
    await startRedisPod(sites.cluster, { memoryMiB: 1 });
    await moved(sites.cluster, sites.host, service);
    await moved(sites.host, sites.cluster, service);
    await removeAll(sites);
    const before = { cluster: await tracesIn(sites.cluster), host: await sites.host.host.inventory() };
    return {
      tryCase: (which) => tryCase(sites, before, which),
      [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
    };
  } catch (cause) {
    await sites[Symbol.asyncDispose]();
    throw cause;
  }
}

async function removeAll({ cluster: { cluster }, host }: ClusterAndHost): Promise<void> {
  clearBreakpoint(host.host);
  for (const { migration } of await host.json<{ migration: string }[]>(["release"])) await host.ums(["release", migration]);
  await host.host.podman(["rm", "--all", "--force", "--time=0", "--volumes"]);
  await cluster.kubectl(["delete", "pod", service, "--ignore-not-found", "--grace-period=1"], { timeoutMs: followedMs });
  await cluster.kubectl(["delete", "service", service, "--ignore-not-found"]);
  await cluster.kubectl(["delete", "migrations", "--all", "--timeout=30s"]);
}

/** A migration that waits at its breakpoint. */
type Started = Readonly<{
  /** Lets it go on. Repeated, it does nothing. */
  goOn(): Promise<void>;
  /** As its source tells it. */
  status(): Promise<Readonly<{ phase?: string; endedAt?: string; error?: { code: string; message: string } }>>;
}>;

async function startService({ cluster, host }: ClusterAndHost, from: Kind): Promise<Readonly<{ host: string; port: number }>> {
  if (from === "cluster") {
    await startRedisPod(cluster, { memoryMiB: 1 });
    return { host: cluster.cluster.nodes[0].address, port: redisNodePort };
  }
  const server = ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"];
  await host.host.podman(["run", "--detach", `--name=${service}`, `--publish=${hostPort}:6379`, redisImageName, ...server]);
  return { host: host.host.address, port: hostPort };
}

/** Resolves when it waits there. */
async function startMigration({ cluster, host }: ClusterAndHost, { from, step, moment }: EdgeCase): Promise<Started> {
  if (from === "cluster") {
    const name = `case-${randomBytes(4).toString("hex")}`;
    await createMigration(cluster, { name, pod: service, to: host, breakpoint: `${step} ${moment}` });
    await atClustersBreakpoint(cluster, name, { step, moment });
    return {
      goOn: () => setClustersBreakpoint(cluster, name, undefined),
      status: async () => (await cluster.cluster.api.get(migrations, name))?.status ?? {},
    };
  }
  setHostsBreakpoint(host.host, step, moment);
  const { id } = await host.json<Migration>(["migrate", service, "--to", cluster.name, "--detach"]);
  await atHostsBreakpoint(host, id, step, moment);
  return {
    goOn: async () => clearBreakpoint(host.host),
    status: () => host.json<Migration>(["status", id]),
  };
}

async function tryCase(sites: ClusterAndHost, before: Before, which: EdgeCase): Promise<Tried> {
  const { cluster, host, wan } = sites;
  await removeAll(sites);
  await refreshPartsOf(cluster);
  const address = await startService(sites, which.from);
  const [source, destination] = which.from === "cluster" ? [cluster, host] : [host, cluster];
  await movable(source, destination, service);
  const client = await startClient(wan, address);
  const copies = watchCopies(() => {
    const states = statesOn(sites);
    return kinds.flatMap((kind) => states[kind].flatMap((state) => (state === "live" ? [kind] : [])));
  });
  try {
    const migration = await startMigration(sites, which);
    await disturb(sites, which, migration);
    const { phase, error } = await settled(sites, migration);
    copies.expectNeverTwo();
    await expectOneCopy(sites, (phase === "Succeeded") === (which.from === "cluster") ? "host" : "cluster");
    await expectNothingLost(client);
    copies.expectNeverTwo();
    await removeAll(sites);
    const left = await leftAfter(sites, before);
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    if (error?.code === "INTERNAL") throw new Error(`Nobody has thought of this: ${error.message}`);
    return { outcome: `${phase}${error ? ` (${error.code})` : ""}`, disturbed: true };
  } finally {
    copies.stop();
    await client.kill();
  }
}

async function disturb({ cluster, host }: ClusterAndHost, { victim }: EdgeCase, { goOn }: Started): Promise<void> {
  switch (victim) {
    case "the operator":
      await signalPart(cluster, { which: await leader(cluster) });
      return await goOn();
    case "the coordinator":
      await signalPart(cluster, { which: "app=migration-coordinator" });
      return await goOn();
    case "the interface":
      await signalPart(cluster, { which: "app=ssu-interface" });
      return await goOn();
    case "ums serve":
      host.serve().kill("SIGKILL");
      await host.serve().exited;
      await goOn();
      await sleep(1_000);
      return await host.restart();
    case "power of the host":
      await host.host.powerOff();
      await goOn().catch(() => undefined); // its breakpoint went with it
      await sleep(1_000);
      await host.host.powerOn();
      await runOnce(host.host, imageReference("base"));
      return await host.restart();
    case "the link":
      // The host's: the test itself reaches the cluster over its own.
      await host.host.cutLink();
      await goOn();
      await sleep(linkDownMs);
      return await host.host.restoreLink();
  }
}

/** @returns the migration as its source tells it, once neither site has anything of it to do */
async function settled({ cluster, host }: ClusterAndHost, migration: Started): Promise<Awaited<ReturnType<Started["status"]>>> {
  let last: unknown;
  for (const until = Date.now() + settleMs; Date.now() < until; await sleep(300)) {
    try {
      const [own, objects, records] = await Promise.all([
        migration.status(),
        cluster.cluster.api.list(migrations),
        host.json<Migration[]>(["status"]),
      ]);
      const open = [...objects.map(({ status }) => status), ...records].filter((each) => each?.endedAt === undefined);
      last = { own, open: open.length };
      if (own.endedAt !== undefined && open.length === 0) return own;
    } catch (cause) {
      last = cause instanceof Error ? cause.message.slice(0, 300) : cause;
    }
  }
  throw new Error(`After ${settleMs / 1000} s the migration has not ended: ${JSON.stringify(last)}`);
}

// --- what must hold ---

const statesOn = ({ cluster, host }: ClusterAndHost): Readonly<Record<Kind, string[]>> => ({
  cluster: cluster.cluster.nodes.flatMap(copiesOnNode),
  host: copiesOnHost(host.host).map(({ state }) => state),
});

async function expectOneCopy(sites: ClusterAndHost, owner: Kind): Promise<void> {
  const { cluster, host } = sites;
  const there = { cluster: (await cluster.cluster.api.get(pods, service)) !== undefined, host: await isOnHost(host) };
  const found = { ...statesOn(sites) };
  const wanted = { cluster: owner === "cluster" ? ["live"] : [], host: owner === "host" ? ["live"] : [] };
  for (const kind of kinds) {
    if (there[kind] !== (kind === owner) || found[kind].join() !== wanted[kind].join())
      throw new Error(`The ${owner} should have the one copy: ${JSON.stringify({ there, found })}`);
  }
  if (owner === "cluster") {
    await cluster.cluster.kubectl(["wait", "--for=condition=Ready", `pod/${service}`, "--timeout=60s"], { timeoutMs: 70_000 });
    if ((await cluster.cluster.kubectl(["get", "service", service], { reject: false })).exitCode === 0)
      await served(cluster, redisNodePort);
  }
}

const isOnHost = async ({ host }: ClusterAndHost["host"]) => (await host.podman(["ps", "--all", "--quiet"])).stdout !== "";

async function leftAfter({ cluster, host }: ClusterAndHost, before: Before): Promise<string[]> {
  const inCluster = await tracesSince([cluster], [before.cluster], followedMs);
  for (const until = Date.now() + 20_000; ; await sleep(250)) {
    const onHost = inventoryChanges(before.host, await host.host.inventory()).filter((line) => !lostWithPower.test(line));
    if (onHost.length === 0 || Date.now() > until) return [...inCluster, ...onHost];
  }
}
