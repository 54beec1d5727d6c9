/** Who is in a container without being of it (a probe, `exec`): the cgroup has them, and CRIU does not dump them. */
import { readdir, readFile, readlink } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { allSettled } from "../settled.ts";
import { type Freezer, processesIn, setFrozen } from "./freezer.ts";

/** A container's first process, and its group. */
type Service = Readonly<{ pid: number; freezer: Freezer }>;

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
  containers: readonly Service[],
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

async function isVisited({ pid: init, freezer }: Service, visitMs: number): Promise<boolean> {
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
