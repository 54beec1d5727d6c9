/** The cgroup freezer of a process: version 1 (its own hierarchy) and version 2 (part of every cgroup). */
import { readdir, readFile, readlink, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../errors.ts";
import { allSettled } from "../settled.ts";

export const cgroupRoot = "/sys/fs/cgroup";

export type Freezer = Readonly<{ version: 1 | 2; directory: string }>;

/** @throws ENOENT when the process is gone */
export async function freezerOf(pid: number): Promise<Freezer> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, "utf8")).trim().split("\n");
  for (const line of lines) {
    const [, controllers = "", ...rest] = line.split(":");
    if (controllers.split(",").includes("freezer")) return { version: 1, directory: path.join(cgroupRoot, "freezer", rest.join(":")) };
  }
  const unified = lines.find((line) => line.startsWith("0::"))?.slice(3) ?? "/";
  return { version: 2, directory: path.join(cgroupRoot, unified) };
}

/** The group above: a pod's, for one of its containers. */
export const parentOf = ({ version, directory }: Freezer): Freezer => ({ version, directory: path.dirname(directory) });

async function stateOf({ version, directory }: Freezer): Promise<boolean> {
  return version === 1
    ? (await readFile(path.join(directory, "freezer.state"), "utf8")).trim() === "FROZEN"
    : (await readFile(path.join(directory, "cgroup.events"), "utf8")).includes("frozen 1");
}

/** Whether a group is frozen; one that is gone is not. */
export const isGroupFrozen = (freezer: Freezer) => stateOf(freezer).catch(() => false);

/** Whether every task of the process's cgroup is frozen. */
export async function isFrozen(pid: number): Promise<boolean> {
  return stateOf(await freezerOf(pid));
}

/**
 * Freezes or thaws a group and all below it; resolves when every task has stopped.
 * @throws UmsError TIMED_OUT
 */
export async function setFrozen(freezer: Freezer, frozen: boolean, { timeoutMs = 5_000 } = {}): Promise<void> {
  const { version, directory } = freezer;
  const [file, words] = version === 1 ? (["freezer.state", ["THAWED", "FROZEN"]] as const) : (["cgroup.freeze", ["0", "1"]] as const);
  for (const until = Date.now() + timeoutMs; ; await sleep(2)) {
    // Again each time: version 1 counts a task that was being forked only when it is told once more.
    await writeFile(path.join(directory, file), words[frozen ? 1 : 0]);
    if (!frozen || (await stateOf(freezer))) return;
    if (Date.now() > until) throw new UmsError("TIMED_OUT", `The tasks of ${directory} do not stop.`);
  }
}

/** A container's first process, and its group. */
export type Frozen = Readonly<{ pid: number; freezer: Freezer }>;

/**
 * Freezes containers at a moment when no visitor (a probe, `exec`) talks to them by a unix socket, which CRIU would refuse,
 * as it does not dump the visitor ({@link dumpedOf}). Who stays for longer than a probe takes is not waited for. When it has
 * settled, nothing of it freezes or thaws any more.
 * @param options.signal stops the waiting: they are frozen then, or not
 * @param options.patienceMs for which the service's clients may wait for that
 * @param options.visitMs the age up to which a visitor is taken for one that is about to leave
 * @throws UmsError TIMED_OUT
 */
export async function freezeUnvisited(
  containers: readonly Frozen[],
  { signal, patienceMs = 1_000, visitMs = 2_000 }: { signal?: AbortSignal; patienceMs?: number; visitMs?: number } = {},
): Promise<void> {
  const setAll = (frozen: boolean) => allSettled(containers.map(({ freezer }) => setFrozen(freezer, frozen)));
  for (const until = Date.now() + patienceMs; ; await sleep(10)) {
    await setAll(true);
    const visits = await Promise.all(containers.map((container) => isVisited(container, visitMs)));
    if (!visits.includes(true) || signal?.aborted === true || Date.now() > until) return;
    await setAll(false);
  }
}

/** Of a clock tick in /proc, whatever the kernel's own (proc(5), sysconf(_SC_CLK_TCK)). */
const ticksPerSecond = 100;

async function isVisited({ pid: init, freezer }: Frozen, visitMs: number): Promise<boolean> {
  const found = await Promise.all((await processesIn(freezer)).map(readStat));
  const isDumped = dumpedOf(init, found);
  const visitors = found.filter(({ pid }) => !isDumped(pid));
  if (visitors.length === 0) return false;
  const [uptime, table] = await Promise.all([readFile("/proc/uptime", "utf8"), readFile(`/proc/${init}/net/unix`, "utf8").catch(() => "")]);
  const youngest = Number(uptime.split(" ")[0]) - visitMs / 1_000;
  const sockets = new Set(table.split("\n").map((line) => `socket:[${line.trim().split(/\s+/)[6] ?? ""}]`));
  const held = await Promise.all(visitors.filter(({ startedAt }) => startedAt > youngest).map(({ pid }) => descriptorsOf(pid)));
  return held.flat().some((link) => sockets.has(link));
}

/** CRIU dumps what descends from the container's first process alone (tried with CRIU 4.2.1). @returns tells whether it does a process */
export function dumpedOf(init: number, processes: readonly { pid: number; parent: number }[]): (pid: number) => boolean {
  const parents = new Map(processes.map(({ pid, parent }) => [pid, parent]));
  const isDumped = (pid: number | undefined): boolean => pid === init || (pid !== undefined && isDumped(parents.get(pid)));
  return isDumped;
}

/** @returns when it started, in seconds after the machine's own start, too */
async function readStat(pid: number): Promise<{ pid: number; parent: number; startedAt: number }> {
  // The name, which comes first, may hold anything.
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "")).replace(/^.*\)/s, "").trim().split(" ");
  return { pid, parent: Number(fields[1]), startedAt: Number(fields[19]) / ticksPerSecond };
}

async function descriptorsOf(pid: number): Promise<string[]> {
  const directory = `/proc/${pid}/fd`;
  const names = await readdir(directory).catch(() => []); // ended meanwhile
  return await Promise.all(names.map((name) => readlink(path.join(directory, name)).catch(() => "")));
}

/**
 * Sends SIGKILL to every task of the process's cgroup. A frozen task of cgroup version 1 dies at the thaw, before it
 * runs another instruction of its own; one of version 2 dies at once.
 */
export async function killFrozen(pid: number): Promise<void> {
  const freezer = await freezerOf(pid).catch(() => undefined);
  if (freezer) await killGroup(freezer); // else gone already
}

const sigkill = 1n << 8n;

/**
 * Whether a process has been killed: it is gone, or its SIGKILL waits for the thaw, until which a frozen task of cgroup
 * version 1 outlives it.
 * @param isItsGroup tells its cgroup from that of another process which has got its pid
 */
export async function isKilled(pid: number, isItsGroup: (directory: string) => boolean): Promise<boolean> {
  const freezer = await freezerOf(pid).catch(() => undefined);
  if (!freezer || !isItsGroup(freezer.directory)) return true;
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  const masks = [...status.matchAll(/^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)$/gm)].map(([, mask]) => BigInt(`0x${mask}`));
  return status === "" || masks.some((mask) => (mask & sigkill) !== 0n);
}

/** The same as {@link killFrozen} for a group and all below it. */
export async function killGroup(freezer: Freezer): Promise<void> {
  const kill = path.join(freezer.directory, "cgroup.kill"); // Linux 5.14
  if (freezer.version === 2 && (await stat(kill).catch(() => undefined))) return writeFile(kill, "1");
  for (const task of await processesIn(freezer)) {
    try {
      process.kill(task, "SIGKILL");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
    }
  }
}

/** Every process of the container whose init this is: those of its cgroup and of the groups below. */
export async function processesOf(pid: number): Promise<number[]> {
  return processesIn(await freezerOf(pid));
}

export async function processesIn({ directory }: Freezer): Promise<number[]> {
  const groups = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = [directory, ...groups.filter((group) => group.isDirectory()).map((group) => path.join(group.parentPath, group.name))];
  const lists = await Promise.all(files.map((group) => readFile(path.join(group, "cgroup.procs"), "utf8").catch(() => "")));
  return lists.flatMap((list) => list.trim().split("\n").filter(Boolean).map(Number));
}

/** Bytes of memory that the tasks of a group hold privately or share anonymously: what a dump will write, at most. */
export async function memoryIn(freezer: Freezer): Promise<number> {
  let kilobytes = 0;
  for (const task of await processesIn(freezer)) {
    const status = await readFile(`/proc/${task}/status`, "utf8").catch(() => "");
    for (const field of ["RssAnon", "RssShmem", "VmSwap"])
      kilobytes += Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
  }
  return kilobytes * 1024;
}

/** The same for the container whose init this is. */
export async function memoryBytes(pid: number): Promise<number> {
  return memoryIn(await freezerOf(pid));
}
