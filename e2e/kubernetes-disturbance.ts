/**
 * What dies in the middle of a migration between clusters, and what must hold afterwards. One case: a Redis pod in
 * cluster a, a client that writes to it at one address all the time, a migration to b that stops before or after one of
 * its steps, a victim. Then it must come right by itself.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { leases, pods } from "../src/platforms/kubernetes/kinds.ts";
import { containerImages } from "../setup/container-images.ts";
import { type MigrationObject, migrations } from "../src/platforms/kubernetes/migration.ts";
import { startClient } from "./client.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint } from "./cluster-migrations.ts";
import { type ClusterSite, type ClusterSites, createClusterSites, followedMs, movable, moved, served } from "./cluster-sites.ts";
import { type Traces, tracesIn, tracesSince } from "./cluster-traces.ts";
import type { ClusterNode } from "./cluster/node.ts";
import {
  expectNothingLost,
  isRestoring,
  killNamed,
  type Moment,
  moments,
  type Step,
  steps,
  type Tried,
  watchCopies,
} from "./disturbance.ts";
import { listDirectory, readLines } from "./listing.ts";
import { redisImage, redisNodePort, startRedisPod } from "./redis-pod.ts";

const clusterVictims = [
  "operator",
  "an operator that comes back",
  "source's coordinator",
  "destination's coordinator",
  "source's interface",
  "destination's interface",
  "CRIU",
  "CRIU at its restore",
  "runc",
  "source's API server",
  "destination's API server",
  "source's containerd",
  "destination's containerd",
  "the link",
] as const;
type ClusterVictim = (typeof clusterVictims)[number];
export type ClusterCase = Readonly<{ step: Step; moment: Moment; victim: ClusterVictim }>;

/** The step in which a process is killed that lives for one step alone: this one, or after its end the next. */
const stepOfKill = ({ step, moment }: Pick<ClusterCase, "step" | "moment">): Step | undefined =>
  moment === "before" ? step : steps[steps.indexOf(step) + 1];

/** When there are victims that live for one step alone. */
const stepsOf: Partial<Record<ClusterVictim, readonly Step[]>> = {
  CRIU: ["transfer", "restore"],
  "CRIU at its restore": ["restore"],
  runc: ["transfer", "restore"],
};

/** Every step, both moments, every victim that there is at that moment. */
export const allClusterCases: readonly ClusterCase[] = steps
  .flatMap((step) => moments.flatMap((moment) => clusterVictims.map((victim) => ({ step, moment, victim }))))
  .filter((each) => stepsOf[each.victim]?.some((step) => step === stepOfKill(each)) ?? true);

/** A kill for each step; every kind of victim has its turn. */
export const onePerClusterStep: readonly ClusterCase[] = [
  { step: "admit", moment: "after", victim: "operator" },
  { step: "reserve", moment: "after", victim: "destination's interface" },
  { step: "reserve", moment: "after", victim: "destination's API server" },
  { step: "pre-copy", moment: "before", victim: "source's coordinator" },
  { step: "pre-copy", moment: "after", victim: "source's interface" },
  { step: "hold-clients", moment: "after", victim: "the link" },
  { step: "freeze", moment: "after", victim: "an operator that comes back" },
  { step: "transfer", moment: "before", victim: "CRIU" },
  { step: "restore", moment: "before", victim: "runc" },
  { step: "restore", moment: "before", victim: "CRIU at its restore" },
  { step: "restore", moment: "after", victim: "destination's containerd" },
  { step: "commit", moment: "before", victim: "destination's coordinator" },
  { step: "commit", moment: "after", victim: "source's API server" },
  { step: "forward-clients", moment: "before", victim: "operator" },
  { step: "remove-source", moment: "before", victim: "source's containerd" },
  { step: "clean-up", moment: "before", victim: "source's interface" },
];

const service = "redis";
const outageMs = 20_000;
const linkDownMs = 4_000;
/** Longer than a lease. A kubelet may lose its patience with the one that stands still meanwhile, and kill it. */
const followMs = 40_000;
/** Until who waits at a breakpoint goes on without being told: an API server that is away can't tell it. */
const unattendedMs = 1_500;
/** A lease runs out, a container is started again, a request is given up. */
const settleMs = 150_000;

/** Two clusters on which one case after another can be tried. */
export type ClusterGround = AsyncDisposable &
  Readonly<{
    sites: ClusterSites;
    /** @throws Error naming the promise that was broken */
    tryCase(which: ClusterCase): Promise<Tried>;
    /** Takes all away that a case has made. @returns what is left */
    leftovers(): Promise<string[]>;
  }>;

export async function createClusterGround(): Promise<ClusterGround> {
  const sites = await createClusterSites({ images: [await redisImage(), ...(await containerImages(["memhog"]))] });
  try {
    // What a node keeps for good after its first time is no trace of a later migration.
    await startRedisPod(sites.a, { memoryMiB: 1 });
    await moved(sites.a, sites.b, service);
    await moved(sites.b, sites.a, service);
    await removeAll(sites);
    const before = await Promise.all([sites.a, sites.b].map(tracesIn));
    return {
      sites,
      tryCase: (which) => tryCase(sites, before, which),
      leftovers: () => leftovers(sites, before),
      [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
    };
  } catch (cause) {
    await sites[Symbol.asyncDispose]();
    throw cause;
  }
}

/** As a person would: the service, and what keeps its clients' way. */
async function removeAll({ a, b }: ClusterSites): Promise<void> {
  await Promise.all(
    [a, b].map(async ({ cluster }) => {
      await cluster.kubectl(["delete", "pod", service, "--ignore-not-found", "--grace-period=1"], { timeoutMs: followedMs });
      await cluster.kubectl(["delete", "migrations", "--all", "--timeout=30s"]);
    }),
  );
}

async function leftovers(sites: ClusterSites, before: readonly Traces[]): Promise<string[]> {
  await removeAll(sites);
  return await tracesSince([sites.a, sites.b], before, followedMs);
}

const nodesOf = ({ a, b }: ClusterSites) => [...a.cluster.nodes, ...b.cluster.nodes];

async function tryCase(sites: ClusterSites, before: readonly Traces[], which: ClusterCase): Promise<Tried> {
  const { a, b, clusters } = sites;
  await refreshParts(sites);
  await startRedisPod(a, { memoryMiB: 1 });
  await movable(a, b, service);
  const client = await startClient(clusters.wan, { host: a.cluster.nodes[0].address, port: redisNodePort });
  const copies = watchCopies(() =>
    nodesOf(sites).flatMap((node) => copiesOn(node).flatMap((state) => (state === "live" ? [node.name] : []))),
  );
  const name = `case-${randomBytes(4).toString("hex")}`;
  try {
    const { step, moment, victim } = which;
    const unattended = victim.endsWith("API server") ? ` ${unattendedMs}` : "";
    await createMigration(a, { name, pod: service, to: b, breakpoint: `${step} ${moment}${unattended}` });
    await atBreakpoint(a, name, { step, moment });
    const disturbed = await disturb(sites, name, which);
    const { phase, error } = (await settled(sites, name)).status ?? {};
    copies.expectNeverTwo();
    await expectOneCopy(sites, phase === "Succeeded" ? b : a);
    await expectNothingLost(client);
    copies.expectNeverTwo();
    const left = await leftovers(sites, before);
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    if (error?.code === "INTERNAL") throw new Error(`Nobody has thought of this: ${error.message}`);
    return { outcome: `${phase}${error ? ` (${error.code})` : ""}`, disturbed };
  } catch (cause) {
    const told = await explain(sites, name).catch(String);
    throw new Error(`${cause instanceof Error ? cause.message : String(cause)}\n  ${told}`, { cause });
  } finally {
    copies.stop();
    await client.kill();
  }
}

/** What the objects and UMS's own logs say of a case that failed. */
async function explain({ a, b }: ClusterSites, name: string): Promise<string> {
  const { status } = await migrationIn(a, name);
  const { phase, waiting, error, journal, stepsMs } = status ?? {};
  const told = [JSON.stringify({ phase, waiting, error, steps: Object.keys(journal?.steps ?? {}), failure: journal?.failure, stepsMs })];
  for (const { cluster } of [a, b]) {
    for (const args of [
      ["get", "nodes,pods,migrations,endpointslices", "--output=wide"],
      ["get", "endpointslices", `--selector=kubernetes.io/service-name=${service}`, "--output=jsonpath={.items[*].endpoints}"],
      ["get", "events", "--sort-by=.lastTimestamp", `--field-selector=involvedObject.name=${service}`],
      ["logs", "--selector=app in (migration-coordinator,migration-operator,ssu-interface)", "--tail=12", "--prefix"],
    ]) {
      const { stdout } = await cluster.kubectl(args, { reject: false });
      told.push(`${cluster.name}: kubectl ${args.join(" ")}`, ...stdout.split("\n").slice(-60));
    }
    for (const node of cluster.nodes) told.push(`${node.name}: kube-proxy`, ...(await node.log("kube-proxy", 12)).split("\n"));
  }
  return told.join("\n  ");
}

/** @returns the migration as its source tells it, once neither site has anything of it to do */
async function settled({ a, b }: ClusterSites, name: string): Promise<MigrationObject> {
  let last: unknown;
  for (const until = Date.now() + settleMs; Date.now() < until; await sleep(300)) {
    try {
      const own = await migrationIn(a, name);
      const theirs = await b.cluster.api.list(migrations);
      const open = theirs.filter(({ status }) => status?.endedAt === undefined);
      last = { own: own.status?.phase, waiting: own.status?.waiting, openAtDestination: open.length };
      if (own.status?.endedAt !== undefined && open.length === 0) return own;
    } catch (cause) {
      last = cause instanceof Error ? cause.message.slice(0, 300) : cause;
    }
  }
  throw new Error(`After ${settleMs / 1000} s the migration has not ended: ${JSON.stringify(last)}`);
}

/** @returns whether there was anything to kill */
async function disturb(sites: ClusterSites, name: string, which: ClusterCase): Promise<boolean> {
  const { a, b, clusters } = sites;
  const goOn = () => setBreakpoint(a, name, undefined);
  const [side, part] = which.victim.split("'s ");
  const site = side === "destination" ? b : a;
  switch (part ?? which.victim) {
    case "operator":
      await signalPart(a, { which: await leader(a) });
      break;
    case "an operator that comes back":
      return await stopLeader(a, goOn);
    case "coordinator":
      await signalPart(site, { which: "app=migration-coordinator" });
      break;
    case "interface":
      await signalPart(site, { which: "app=ssu-interface" });
      break;
    case "containerd":
      for (const node of site.cluster.nodes) await node.kill("containerd");
      break;
    case "API server":
      await site.cluster.stopApiServer();
      await sleep(outageMs);
      await site.cluster.startApiServer();
      return true;
    case "the link":
      await clusters.cutLink();
      await goOn();
      await sleep(linkDownMs);
      await clusters.restoreLink();
      return true;
    default:
      return await killDuring(sites, name, which);
  }
  await goOn();
  return true;
}

/** Lets the step run (one that has ended: the next), and kills the first process of that name. */
async function killDuring(sites: ClusterSites, name: string, which: ClusterCase): Promise<boolean> {
  const { victim } = which;
  const during = stepOfKill(which);
  const pattern = victim === "runc" ? /^(\S*\/)?runc / : /criu\.bin /;
  const isTime = () => victim !== "CRIU at its restore" || sites.b.cluster.nodes.some(isRestoring);
  // The step runs before kubectl has ended, so it isn't waited for yet.
  const goingOn = setBreakpoint(sites.a, name, during === undefined ? undefined : `${during} after`);
  goingOn.catch(() => undefined); // met below
  const progress = { passed: false };
  const end = Promise.race([
    settled(sites, name).catch(() => undefined),
    during === undefined
      ? new Promise<never>(() => undefined)
      : atBreakpoint(sites.a, name, { step: during, moment: "after" }).catch(() => undefined),
  ]).then(() => (progress.passed = true));
  let killed = false;
  while (!progress.passed && !killed) {
    killed = killNamed(nodesOf(sites), pattern, isTime);
    await sleep(1);
  }
  await goingOn;
  await setBreakpoint(sites.a, name, undefined);
  await end;
  return killed;
}

/** Whichever operator leads, as a field selector. */
export async function leader({ cluster }: ClusterSite): Promise<string> {
  return `pod ${(await cluster.api.get(leases, "migration-operator"))?.spec?.holderIdentity}`;
}

/** It stands still until another one leads and has begun to undo; then it goes on in the middle of what it was doing. */
async function stopLeader(site: ClusterSite, goOn: () => Promise<void>): Promise<boolean> {
  const first = await leader(site);
  await signalPart(site, { which: first, signal: "STOP" });
  await goOn();
  for (const until = Date.now() + followMs; (await leader(site)) === first; await sleep(100))
    if (Date.now() > until) throw new Error("Nobody took the lead.");
  await signalPart(site, { which: first, signal: "CONT" });
  return true;
}

/** A signal for the first process of each container of these pods: `pod NAME`, or a label. What is killed the kubelet starts again. */
export async function signalPart(
  { cluster }: ClusterSite,
  { which, signal = "KILL" }: { which: string; signal?: "KILL" | "STOP" | "CONT" },
): Promise<void> {
  const selection = which.startsWith("pod ") ? { fields: `metadata.name=${which.slice(4)}` } : { labels: which };
  const items = await cluster.api.list(pods, selection);
  if (items.length === 0) throw new Error(`Nothing runs for ${which}.`);
  for (const { spec, status } of items) {
    const node = cluster.nodes.find((each) => each.name === spec?.nodeName);
    for (const { containerID = "" } of status?.containerStatuses ?? []) {
      const id = containerID.replace("containerd://", "");
      const script = `kill -${signal} "$(grep -l ${id} /proc/[0-9]*/cgroup | cut -d/ -f3 | sort -n | head -n 1)"`;
      await node?.exec(["sh", "-c", script], { reject: false });
    }
  }
}

/** The kubelet lets a container that was killed often wait for minutes: the next case gets new pods. */
async function refreshParts({ a, b }: ClusterSites): Promise<void> {
  await Promise.all([a, b].map(refreshPartsOf));
}

export async function refreshPartsOf({ cluster }: ClusterSite): Promise<void> {
  const items = await cluster.api.list(pods, { labels: "app in (migration-coordinator,migration-operator,ssu-interface)" });
  const restarted = items.filter(({ status }) => status?.containerStatuses?.some(({ restartCount }) => restartCount > 0));
  const names = restarted.map(({ metadata }) => metadata?.name ?? "");
  if (names.length > 0) await cluster.kubectl(["delete", "pods", ...names, "--grace-period=1"]);
  const parts = ["deployment/migration-coordinator", "deployment/migration-operator", "daemonset/ssu-interface"];
  await Promise.all([
    ...parts.map((part) => cluster.kubectl(["rollout", "status", part, "--timeout=90s"], { timeoutMs: 100_000 })),
    cluster.kubectl(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"], { timeoutMs: 70_000 }),
  ]);
}

// --- what must hold ---

async function expectOneCopy(sites: ClusterSites, owner: ClusterSite): Promise<void> {
  // A cluster whose API server was away takes its nodes for dead, and the pods on them for not Ready, until they are heard of.
  await owner.cluster.kubectl(["wait", "--for=condition=Ready", `pod/${service}`, `--timeout=${followedMs}ms`], {
    timeoutMs: followedMs + 5_000,
  });
  if (owner === sites.a) await served(owner, redisNodePort);
  const restarts = (await owner.cluster.api.get(pods, service))?.status?.containerStatuses?.map(({ restartCount }) => restartCount);
  // At the destination a container that waits is made anew where containerd is killed; that it has its memory the writes tell.
  if (owner === sites.a && restarts?.some((count) => count > 0))
    throw new Error(`Its containers were started again: ${JSON.stringify(restarts)}`);
  const other = owner === sites.a ? sites.b : sites.a;
  if (await other.cluster.api.get(pods, service)) throw new Error(`${other.name} has the pod, too.`);
  const found = nodesOf(sites).flatMap((node) => copiesOn(node).map((state) => `${state} on ${node.name}`));
  if (found.length !== 1 || !found[0]?.startsWith(`live on ${owner.name}`))
    throw new Error(`There should be one copy: ${found.join(", ")}`);
}

/** The states of the service's processes on a node that is on. */
export function copiesOn(node: ClusterNode): ("live" | "frozen" | "dying")[] {
  const groups = readLines(`/proc/${node.initPid()}/cgroup`);
  const version1 = groups.find((line) => line.split(":")[1] === "freezer")?.split(":")[2];
  const version2 = groups
    .find((line) => line.startsWith("0::"))
    ?.slice(3)
    .replace(/\/init$/, "");
  const top = version1 === undefined ? `/sys/fs/cgroup${version2}/kubepods` : `/sys/fs/cgroup/freezer${version1}/kubepods`;
  const visit = (group: string): ("live" | "frozen" | "dying")[] => {
    const below = listDirectory(group).filter((name) => /^(pod|besteffort|burstable|guaranteed|[0-9a-f]{64})/.test(name));
    const frozen =
      version1 === undefined
        ? readLines(`${group}/cgroup.events`).includes("frozen 1")
        : readLines(`${group}/freezer.state`)[0] !== "THAWED";
    const own = readLines(`${group}/cgroup.procs`).flatMap((pid) => {
      const status = textOf(`/proc/${pid}/status`);
      if (!/^Name:\tredis-server$/m.test(status)) return [];
      const field = (key: string) => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? "";
      const killed = [field("SigPnd"), field("ShdPnd")].some((mask) => (BigInt(`0x${mask || 0}`) & 0x100n) !== 0n);
      if (killed || "ZX".includes(field("State"))) return ["dying" as const];
      // CRIU holds what it dumps or restores by ptrace.
      return [frozen || field("TracerPid") !== "0" ? ("frozen" as const) : ("live" as const)];
    });
    return [...own, ...below.flatMap((name) => visit(`${group}/${name}`))];
  };
  return visit(top);
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
