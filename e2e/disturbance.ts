/**
 * What dies in the middle of a migration, and what must hold afterwards. One case: a Redis on host A, a client that
 * writes to it at A's address all the time, a migration to B that stops before or after one of its steps, a victim,
 * and everything that was killed started again. Then it must come right by itself.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { unifiedRoot } from "./cgroups.ts";
import { type LoadClient, startClient } from "./client.ts";
import { type Host, type Inventory, inventoryChanges } from "./hosts.ts";
import type { RunningProcess } from "./place.ts";
import { imageReference, runOnce } from "./images.ts";
import { readLines } from "./listing.ts";
import { redisPort, startRedis } from "./redis.ts";
import { createSites, type Sites, type SitesOptions, type TestSite } from "./sites.ts";

export const steps = [
  "admit",
  "reserve",
  "pre-copy",
  "hold-clients",
  "freeze",
  "transfer",
  "restore",
  "commit",
  "forward-clients",
  "remove-source",
  "clean-up",
] as const;
export type Step = (typeof steps)[number];
export const moments = ["before", "after"] as const;
export type Moment = (typeof moments)[number];
export const victims = [
  "source's ums serve",
  "destination's ums serve",
  "both ums serve",
  "CRIU",
  "CRIU at its dump",
  "CRIU at its restore",
  "runc",
  "runc at its cgroups",
  "the link",
  "power of the destination",
  "power of the source",
] as const;
export type Victim = (typeof victims)[number];
export type Case = Readonly<{ step: Step; moment: Moment; victim: Victim }>;

/** A kill for each step; every victim has its turn. */
export const onePerStep: readonly Case[] = [
  { step: "admit", moment: "after", victim: "source's ums serve" },
  { step: "reserve", moment: "after", victim: "power of the destination" },
  { step: "pre-copy", moment: "after", victim: "the link" },
  { step: "hold-clients", moment: "after", victim: "both ums serve" },
  { step: "freeze", moment: "after", victim: "source's ums serve" },
  { step: "freeze", moment: "after", victim: "destination's ums serve" },
  { step: "transfer", moment: "before", victim: "CRIU" },
  { step: "transfer", moment: "before", victim: "CRIU at its dump" },
  { step: "restore", moment: "before", victim: "runc" },
  { step: "restore", moment: "before", victim: "runc at its cgroups" },
  { step: "restore", moment: "before", victim: "CRIU at its restore" },
  { step: "commit", moment: "before", victim: "power of the source" },
  { step: "forward-clients", moment: "before", victim: "destination's ums serve" },
  { step: "remove-source", moment: "before", victim: "power of the destination" },
  { step: "clean-up", moment: "before", victim: "power of the source" },
];

export const nameOf = ({ step, moment, victim }: Pick<Case, "step" | "moment"> & { victim: string }) => `${victim}, ${moment} ${step}`;

/** Of a host whose configuration names it. */
export const breakpointFile = "/run/ums/breakpoint";
const service = "redis";
const linkDownMs = 4_000;
/** How long a migration may take to end by itself once everything runs again. */
const settleMs = 90_000;

/** Limits as short as a test's patience; otherwise as in production. */
export const impatient: NonNullable<SitesOptions["configuration"]> = {
  breakpointFile,
  limits: { peerRequestSeconds: 5, reserveSeconds: 20, reservationLeaseSeconds: 10, transferSeconds: 30, restoreSeconds: 20 },
};

/** How the migration ended, in words, and whether there was a process of the victim's name to kill. */
export type Tried = Readonly<{ outcome: string; disturbed: boolean }>;

/** Two sites on which one case after another can be tried. */
export type Ground = AsyncDisposable &
  Readonly<{
    sites: Sites;
    tryCase(which: Case): Promise<Tried>;
    freshService(): Promise<void>;
    leftovers(): Promise<string[]>;
    crowd(size: number): Promise<string>;
  }>;

export async function createGround(options: SitesOptions = {}): Promise<Ground> {
  const sites = await createSites({ ...options, configuration: { ...impatient, ...options.configuration } });
  try {
    const both = [sites.a, sites.b];
    // What Podman and UMS keep for good after their first time is no trace of a later migration.
    await startRedis(sites.a.host, { memoryMiB: 1 });
    await moved(sites.a, sites.b);
    await moved(sites.b, sites.a);
    await removeService(sites);
    const before = await Promise.all(both.map(({ host }) => host.inventory()));
    const ground: Ground = {
      sites,
      async freshService() {
        await removeService(sites);
        await startRedis(sites.a.host, { memoryMiB: 1 });
      },
      async leftovers() {
        await removeService(sites);
        return await leftAfter(both, before);
      },
      tryCase: (which) => tryCase(ground, which),
      crowd: (size) => crowd(ground, size),
      [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
    };
    return ground;
  } catch (cause) {
    await sites[Symbol.asyncDispose]();
    throw cause;
  }
}

/** What the first migration after a boot makes again. */
export const lostWithPower = /^- files: \/(run|tmp|dev\/shm)\//;

/** Some of it goes away a moment after the end (a clean-up that must not delay clients): given time, all of it must. */
async function leftAfter(sites: readonly TestSite[], before: readonly Inventory[], timeoutMs = 5_000): Promise<string[]> {
  for (const until = Date.now() + timeoutMs; ; await sleep(250)) {
    const changes = await Promise.all(
      sites.map(async ({ host, name }, index) =>
        inventoryChanges(before[index] as Inventory, await host.inventory())
          .filter((line) => !lostWithPower.test(line))
          .map((line) => `${name}: ${line}`),
      ),
    );
    if (changes.flat().length === 0 || Date.now() > until) return changes.flat();
  }
}

export async function moved(from: TestSite, to: TestSite, name = service, options: { timeoutMs?: number } = {}): Promise<Migration> {
  const migration = await from.json<Migration>(["migrate", name, "--to", to.name], options);
  if (migration.phase !== "Succeeded") throw new Error(`The migration ended as ${JSON.stringify(migration)}`);
  return migration;
}

/** As a person would: the service itself, and the forwards that its migrations left. */
async function removeService({ a, b }: Sites): Promise<void> {
  for (const { host } of [a, b]) clearBreakpoint(host);
  for (const site of [a, b]) {
    for (const { migration } of await site.json<{ migration: string }[]>(["release"])) await site.ums(["release", migration]);
    await site.host.podman(["rm", "--force", "--ignore", "--time", "0", "--volumes", "--all"]);
  }
}

/** Many migrations at once: those above the limit wait for their turn, and each service is somewhere at the end. */
async function crowd({ sites: { a, b }, leftovers }: Ground, size: number): Promise<string> {
  const names = Array.from({ length: size }, (_, index) => `sleeper-${index}`);
  for (const name of names) await a.host.podman(["run", "--detach", "--name", name, imageReference("redis"), "sleep", "infinity"]);
  const started = await Promise.all(names.map((name) => a.json<Migration>(["migrate", name, "--to", b.name, "--detach"])));
  for (const { id } of started) {
    const { phase, error } = await settled({ a, b }, id, 240_000);
    if (phase !== "Succeeded") throw new Error(`One ended as ${phase}: ${error?.message}`);
  }
  const { stdout } = await b.host.podman(["ps", "--format", "{{.Names}}"]);
  const there = stdout.split("\n").filter((name) => names.includes(name)).length;
  if (there !== size) throw new Error(`${there} of ${size} have arrived.`);
  const left = await leftovers();
  if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
  return `all ${size} have arrived`;
}

/** Starts the migration and resolves with its id when it waits at the breakpoint. */
export async function startAndStopAt({ a, b }: Pick<Sites, "a" | "b">, step: string, moment: Moment): Promise<string> {
  setBreakpoint(a.host, step, moment);
  const { id } = await a.json<Migration>(["migrate", service, "--to", b.name, "--detach"]);
  await atBreakpoint(a, id, step, moment);
  return id;
}

export async function atBreakpoint(site: TestSite, id: string, step: string, moment: Moment): Promise<void> {
  await site.serve().waitForLine(new RegExp(`"migration":"${id}","step":"${step}","moment":"${moment}","msg":"at the breakpoint"`), 40_000);
}

export const setBreakpoint = (host: Host, step: string, moment: Moment) => writeFileSync(host.path(breakpointFile), `${step} ${moment}`);
export const clearBreakpoint = (host: Host) => rmSync(host.path(breakpointFile), { force: true });

/** @returns the migration as its source tells it, once neither site has anything of it to do */
export async function settled({ a, b }: Pick<Sites, "a" | "b">, id: string, timeoutMs = settleMs): Promise<Migration> {
  let last: unknown;
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(200)) {
    const lists = await Promise.all(
      [a, b].map((site) => site.json<Migration[] | { error: unknown }>(["status"]).catch((cause: unknown) => ({ error: String(cause) }))),
    );
    last = lists;
    const [own, theirs] = lists;
    if (!Array.isArray(own) || !Array.isArray(theirs)) continue;
    const migration = own.find((each) => each.id === id);
    last = { own: migration, theirs: theirs.find((each) => each.id === id) };
    if (migration?.endedAt !== undefined && [...own, ...theirs].every(({ endedAt }) => endedAt !== undefined)) return migration;
  }
  throw new Error(`After ${timeoutMs} ms the migration has not ended: ${JSON.stringify(last)}`);
}

/** @throws Error naming the promise that was broken */
async function tryCase(ground: Ground, which: Case): Promise<Tried> {
  const { sites } = ground;
  const { a, b } = sites;
  await ground.freshService();
  const client = await startClient(sites.hosts.wan, { host: a.host.address, port: redisPort });
  const copies = watchCopies(() => liveOn([a.host, b.host]));
  const reached = await probe(sites, b.host);
  let id = "";
  try {
    id = await startAndStopAt(sites, which.step, which.moment);
    if (!isAfterCommit(which)) reached.expectNone("before the commit");
    const disturbed = await disturb(sites, which, id);
    const migration = await settled(sites, id);
    if (migration.phase !== "Succeeded") reached.expectNone("although the migration was undone");
    copies.expectNeverTwo();
    await expectOneCopy(sites, migration.phase === "Succeeded" ? b : a);
    if (isMemoryLost(which, migration)) await client.kill();
    else await expectNothingLost(client);
    const left = await ground.leftovers();
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    return { outcome: `${migration.phase}${migration.error ? ` (${migration.error.code})` : ""}`, disturbed };
  } catch (cause) {
    throw new Error(`migration ${id}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  } finally {
    copies.stop();
    reached.stop();
    await client.kill();
  }
}

const isAfterCommit = ({ step, moment }: Case) =>
  steps.indexOf(step) > steps.indexOf("commit") || (step === "commit" && moment === "after");

/** A power loss takes the memory of what ran there, as it would without UMS. */
function isMemoryLost(which: Case, { phase }: Migration): boolean {
  if (which.victim === "power of the source") return phase !== "Succeeded";
  return which.victim === "power of the destination" && isAfterCommit(which);
}

/** @returns whether there was anything to kill */
async function disturb({ a, b, hosts }: Sites, { step, moment, victim }: Case, id: string): Promise<boolean> {
  const kill = async (site: TestSite) => {
    site.serve().kill("SIGKILL");
    await site.serve().exited;
  };
  switch (victim) {
    case "source's ums serve":
      await kill(a);
      clearBreakpoint(a.host);
      await a.restart();
      return true;
    case "destination's ums serve":
      await kill(b);
      clearBreakpoint(a.host);
      await sleep(1_000);
      await b.restart();
      return true;
    case "both ums serve":
      await Promise.all([kill(a), kill(b)]);
      clearBreakpoint(a.host);
      await Promise.all([a.restart(), b.restart()]);
      return true;
    case "the link":
      await hosts.cutLink();
      clearBreakpoint(a.host);
      await sleep(linkDownMs);
      await hosts.restoreLink();
      return true;
    case "power of the source":
      await boot(a, { powerOffFirst: true });
      return true;
    case "power of the destination":
      await b.host.powerOff();
      clearBreakpoint(a.host);
      await sleep(1_000);
      await boot(b);
      return true;
    case "CRIU":
      return await killDuring({ a, b, id, step, moment, name: /criu\.bin / });
    case "CRIU at its dump":
      return await killDuring({ a, b, id, step, moment, name: /criu\.bin /, isTime: () => isThawedByCriu(a.host) });
    case "CRIU at its restore":
      return await killDuring({ a, b, id, step, moment, name: /criu\.bin /, isTime: () => isRestoring(b.host) });
    case "runc":
      return await killDuring({ a, b, id, step, moment, name: /^(\S*\/)?runc / });
    case "runc at its cgroups":
      return await killDuring({ a, b, id, step, moment, name: /^(\S*\/)?runc .*restore /, isTime: () => hasItsFirstCgroup(b.host) });
  }
}

/** Powers a host on and does what its services do at boot. */
export async function boot(site: TestSite, { powerOffFirst = false } = {}): Promise<void> {
  if (powerOffFirst) await site.host.powerOff();
  await site.host.powerOn();
  await runOnce(site.host, imageReference("redis"));
  // podman-restart.service; it may come before `ums serve`.
  await site.host.podman(["start", "--all", "--filter", "restart-policy=always"], { reject: false });
  await site.restart();
}

/** CRIU thaws the cgroup while it dumps it, and holds the tasks itself: one that is killed then leaves it thawed. */
const isThawedByCriu = (host: Host) => copiesOn(host).some(({ state }) => state === "traced");

/** CRIU mounts cgroups beside its log while it restores: one that is killed then leaves them mounted. */
export const isRestoring = (host: Pick<Host, "initPid">) =>
  readLines(`/proc/${host.initPid()}/mountinfo`).some((line) => line.includes("/.criu.cgyard."));

/** runc makes a container's cgroups one after the other, cpuset first, and notes them at its end alone. */
const hasItsFirstCgroup = (host: Host) => serviceGroups(host, "cpuset").length > 0;

/** Lets the step run (one that has ended: the next), and kills the first process of that name that is found at the right time. */
async function killDuring({
  a,
  b,
  id,
  step,
  moment,
  name,
  isTime = () => true,
}: {
  a: TestSite;
  b: TestSite;
  id: string;
  step: Step;
  moment: Moment;
  name: RegExp;
  isTime?: () => boolean;
}): Promise<boolean> {
  const during = moment === "before" ? step : steps[steps.indexOf(step) + 1];
  if (during === undefined) clearBreakpoint(a.host);
  else setBreakpoint(a.host, during, "after");
  const progress = { passed: false };
  const end = Promise.race([
    settled({ a, b }, id),
    during === undefined ? never() : atBreakpoint(a, id, during, "after").catch(never), // it may be undone before
  ]).finally(() => (progress.passed = true));
  end.catch(() => undefined); // waited for below
  let killed = false;
  while (!progress.passed && !killed) {
    killed = killNamed([a.host, b.host], name, isTime);
    await sleep(1);
  }
  if (killed) clearBreakpoint(a.host);
  await end;
  clearBreakpoint(a.host);
  return killed;
}

const never = () => new Promise<never>(() => undefined);

/** Kills the processes of that name, each once it is time. @returns whether there was any to kill */
export function killNamed(hosts: readonly Pick<Host, "initPid">[], name: RegExp, isTime: () => boolean): boolean {
  const killed = processesNamed(hosts, name).map(({ pid }) => {
    // Without a pause: it may be time for a few milliseconds alone.
    for (const until = Date.now() + atWorkMs; !isTime();) if (Date.now() > until || !existsSync(`/proc/${pid}`)) return false;
    try {
      return process.kill(pid, "SIGKILL");
    } catch {
      return false; // it ended meanwhile
    }
  });
  return killed.includes(true);
}

/** Within which CRIU has come to what it is to be killed at. */
const atWorkMs = 500;

export function processesNamed(hosts: readonly Pick<Host, "initPid">[], name: RegExp): { pid: number }[] {
  const namespaces = new Set(hosts.map((host) => readLink(`/proc/${host.initPid()}/ns/pid`)));
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .flatMap((entry) => {
      const command = read(`/proc/${entry}/cmdline`)?.replaceAll("\0", " ");
      return command !== undefined && name.test(command) && namespaces.has(readLink(`/proc/${entry}/ns/pid`))
        ? [{ pid: Number(entry) }]
        : [];
    });
}

// --- what must hold ---

export async function expectOneCopy({ a, b, hosts }: Sites, owner: TestSite): Promise<void> {
  for (const site of [a, b]) {
    const { stdout } = await site.host.podman(["ps", "--all", "--format", "json"]);
    const found = (JSON.parse(stdout) as { Names: string[]; State: string }[]).map(({ Names, State }) => `${Names[0]} ${State}`).join();
    const wanted = site === owner ? `${service} running` : "";
    if (found !== wanted) throw new Error(`${site.name} should have ${wanted || "no container"}, and has ${found || "none"}.`);
    const held = copiesOn(site.host).filter(({ state }) => state === "frozen" || state === "traced");
    if (held.length > 0) throw new Error(`Something is still frozen on ${site.name}: ${JSON.stringify(held)}`);
  }
  for (const address of new Set([owner.host.address, a.host.address])) {
    const answer = await hosts.wan.exec(
      ["timeout", "10", process.execPath, fileURLToPath(import.meta.url), "ping", address, String(redisPort)],
      { reject: false },
    );
    if (answer.stdout !== "+PONG") throw new Error(`The service does not answer at ${address}: ${answer.stdout}${answer.stderr}`);
  }
}

export async function expectNothingLost(client: LoadClient): Promise<void> {
  const { lostWrites, duplicatedWrites, wrongReplies, acknowledgedWrites } = await client.stop();
  if (lostWrites + duplicatedWrites + wrongReplies > 0)
    throw new Error(
      `Of ${acknowledgedWrites} acknowledged writes ${lostWrites} are lost and ${duplicatedWrites} there twice; ${wrongReplies} replies were wrong.`,
    );
}

type Copy = Readonly<{ container: string; pid: number; state: "live" | "frozen" | "traced" | "dying" }>;

/** Looks, from outside, whether there are ever two copies that run. @param find names each that runs now */
export function watchCopies(find: () => readonly string[]): { expectNeverTwo(): void; stop(): void } {
  const twice: string[] = [];
  const timer = setInterval(() => {
    const live = find();
    if (live.length > 1) twice.push(live.join(" and "));
  }, 25);
  return {
    expectNeverTwo() {
      if (twice.length > 0) throw new Error(`Two copies lived at once, seen ${twice.length} times: ${twice[0]}`);
    },
    stop: () => clearInterval(timer),
  };
}

/** For {@link watchCopies}. */
export const liveOn = (hosts: readonly Host[]): string[] =>
  hosts.flatMap((host) => copiesOn(host).flatMap(({ state, container, pid }) => (state === "live" ? [`${container} (${pid})`] : [])));

/** The service's containers on a host, by their cgroups. */
export const copiesOn = (host: Host): Copy[] =>
  serviceGroups(host, "freezer").flatMap((group) => {
    const frozen =
      (read(join(group, "freezer.state")) ?? "THAWED") !== "THAWED" || read(join(group, "cgroup.events"))?.includes("frozen 1");
    return (read(join(group, "cgroup.procs")) ?? "")
      .split("\n")
      .filter(Boolean)
      .flatMap((pid): Copy[] => {
        const status = read(`/proc/${pid}/status`) ?? "";
        if (!/^Name:\tredis-server$/m.test(status)) return [];
        const field = (key: string) => new RegExp(`^${key}:\\s+(\\S+)`, "m").exec(status)?.[1] ?? "";
        const killed = [field("SigPnd"), field("ShdPnd")].some((mask) => (BigInt(`0x${mask || 0}`) & 0x100n) !== 0n);
        // CRIU holds what it dumps or restores by ptrace.
        const alive = frozen ? "frozen" : field("TracerPid") === "0" ? "live" : "traced";
        return [{ container: basename(group), pid: Number(pid), state: killed || "ZX".includes(field("State")) ? "dying" : alive }];
      });
  });

/** The cgroups of a host's containers in one hierarchy, or in the only one of version 2. */
function serviceGroups(host: Host, controller: string): string[] {
  let init: number;
  try {
    init = host.initPid();
  } catch {
    return []; // without power
  }
  const groups = (read(`/proc/${init}/cgroup`) ?? "").split("\n").map((line) => line.split(":"));
  const version1 = groups.find(([, controllers = ""]) => controllers === controller)?.[2];
  const version2 = groups.find(([number]) => number === "0")?.[2] ?? "/";
  // A machine may have both, and then a host's own processes are at the top of the one that it does not use.
  const own =
    version1 === undefined || version1 === "/" ? join(unifiedRoot(), dirname(version2)) : join("/sys/fs/cgroup", controller, version1);
  const parent = join(own, "libpod_parent");
  return list(parent)
    .filter((name) => /^libpod-[0-9a-f]+$/.test(name))
    .map((name) => join(parent, name));
}

type Probe = Readonly<{ expectNone(when: string): void; stop(): void }>;

/** Asks at the destination's own port all the time. Only an answer counts: Podman itself keeps the port open, and says nothing. */
async function probe({ hosts }: Sites, { address }: Host): Promise<Probe> {
  const knocking: RunningProcess = await hosts.wan.spawn([
    process.execPath,
    fileURLToPath(import.meta.url),
    "knock",
    address,
    String(redisPort),
  ]);
  return {
    expectNone(when) {
      const first = knocking.output().split("\n").find(Boolean);
      if (first !== undefined) throw new Error(`The destination answered ${when}: ${first}`);
    },
    stop: () => knocking.kill("SIGKILL"),
  };
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined;
  }
}

function readLink(file: string): string | undefined {
  try {
    return readlinkSync(file);
  } catch {
    return undefined;
  }
}

// --- programs that run in the wan ---

async function main([program, host = "", port = ""]: readonly string[]): Promise<void> {
  const attempt = (timeoutMs: number) =>
    new Promise<string>((resolve) => {
      const socket = connect({ host, port: Number(port) });
      const finish = (text: string) => {
        socket.destroy();
        resolve(text);
      };
      socket.setTimeout(timeoutMs, () => finish("silent"));
      socket.on("error", (error) => finish(String(error)));
      socket.on("connect", () => void socket.write("PING\r\n"));
      socket.on("data", (data) => finish(data.toString().trim()));
      socket.on("close", () => resolve("closed"));
    });
  if (program === "ping") console.log(await attempt(8_000));
  else
    for (;;) {
      if ((await attempt(300)) === "+PONG") console.log(new Date().toISOString());
      await sleep(100);
    }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
