/** What dumps and restores have in common: CRIU's settings, its log, and the end of whatever works on one. */
import { existsSync } from "node:fs";
import { readdir, readFile, rm, rmdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import { cgroupRoot, groupsOf } from "./cgroups.ts";

/**
 * CRIU's settings on both sides.
 * tcp-close: a client's connection does not move; the service must see it closed, or it would keep what the client held
 *   (a transaction, a lock) until a keep-alive ends it.
 * skip-in-flight: a connection that nobody has accepted yet would fail the dump; its client has had no answer.
 * network-lock: ours is on the container's network from before the freeze on (src/traffic/hold.ts), and CRIU's would take
 *   four runs of iptables-restore out of the downtime.
 * ghost-limit: deleted but open files above CRIU's default of 1 MiB.
 */
export const criuSettings = "tcp-close\nskip-in-flight\nnetwork-lock skip\nghost-limit 1073741824\n";

/** @param file of settings for a dump or a restore @param more of them, a line each */
export async function writeCriuSettings(file: string, more: readonly string[] = []): Promise<void> {
  await writeFile(file, criuSettings + more.map((line) => `${line}\n`).join(""));
}

/** Where a dump has them; by this path {@link dumpEnded} finds who works on it. */
export const settingsIn = (workDirectory: string) => path.join(workDirectory, "criu.conf");

/**
 * Resolves when no runc or CRIU works on this dump any more; one that takes too long is killed. Must come before the
 * thaw, also after a crash: CRIU puts the freezer back, when it ends, into the state that it found.
 * @throws UmsError CRIU_REMAINS
 */
export async function dumpEnded(workDirectory: string): Promise<void> {
  await ended(() => workingOn(settingsIn(workDirectory)), { patienceMs: dumpPatienceMs });
}

/** How long an undo waits for a dump that nobody wants any more: usually less than a second. */
const dumpPatienceMs = 20_000;

/** Names by which the system knows a process: CRIU's is that of what has loaded it. */
const isRunc = /^runc/;
const isCriu = /^(?!runc)/;

/** Whatever was started with this file of settings: a CRIU whose runc was killed is an orphan, but keeps its environment. */
async function workingOn(settings: string, name = /^/): Promise<number[]> {
  const mark = `CRIU_CONFIG_FILE=${settings}\0`;
  return await processesWhere(
    async (pid) =>
      (await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "")).includes(mark) &&
      name.test(await readFile(`/proc/${pid}/comm`, "latin1").catch(() => "")),
  );
}

/**
 * Whether a restore with this file of settings has lost its CRIU (killed by somebody, or for its memory) while its runc waits
 * on: it does for as long as anything lives that CRIU has made and that holds their socket open.
 */
export async function hasLostCriu(settings: string): Promise<boolean> {
  const waiting = await workingOn(settings, isRunc);
  if (waiting.length === 0) return false;
  const lost = await processesWhere(async (pid) => {
    const [, parent] = /\) Z (\d+) /.exec(await readFile(`/proc/${pid}/stat`, "latin1").catch(() => "")) ?? [];
    return waiting.includes(Number(parent));
  });
  return lost.length > 0;
}

/**
 * Breaks off a restore that is at work with this file of settings: CRIU first, and what it has made, so that runc, which
 * waits for as long as anything of its CRIU lives, ends by itself and removes the container's cgroups.
 * @throws UmsError CRIU_REMAINS
 */
export async function breakOffRestore(settings: string, containerId: string): Promise<void> {
  if ((await workingOn(settings)).length === 0) return;
  await ended(() => workingOn(settings, isCriu), { patienceMs: 0 });
  await killRestored(containerId);
  await ended(() => workingOn(settings), { patienceMs: runcPatienceMs });
}

const runcPatienceMs = 3_000;

/** Kills what a restore that was broken off has left in a container's cgroups, and resolves when it has ended. @throws UmsError CRIU_REMAINS */
export async function killRestored(containerId: string): Promise<void> {
  const group = groupsOf(containerId);
  const isIn = async (pid: number) => group.test(await readFile(`/proc/${pid}/cgroup`, "utf8").catch(() => ""));
  await ended(() => processesWhere(isIn), { patienceMs: 0 });
}

/** Removes a container's empty cgroups: a runc that is killed while it makes them has told its engine of none. Rejects never. */
export async function removeCgroups(containerId: string): Promise<void> {
  const group = groupsOf(containerId);
  for (const until = Date.now() + emptyMs; ; await sleep(50)) {
    const found = await execa("find", [cgroupRoot, "-depth", "-type", "d", "-path", `*${containerId}*`], {
      reject: false,
      timeout: 10_000,
    });
    const groups = found.stdout.split("\n").filter((directory) => group.test(directory));
    for (const directory of groups) await rmdir(directory).catch(() => undefined);
    if (!groups.some(existsSync) || Date.now() > until) return;
  }
}

/** A task that has been killed stays in its group until its memory is freed. */
const emptyMs = 2_000;

async function ended(find: () => Promise<number[]>, { patienceMs }: { patienceMs: number }): Promise<void> {
  for (const startedAt = Date.now(); ; await sleep(20)) {
    const pids = await find();
    if (pids.length === 0) return;
    const overdueMs = Date.now() - startedAt - patienceMs;
    if (overdueMs > killedMs) throw new UmsError("CRIU_REMAINS", `CRIU, or what it works on (process ${pids.join(", ")}), does not end.`);
    if (overdueMs >= 0) for (const pid of pids) kill(pid);
  }
}

const killedMs = 5_000;

async function processesWhere(holds: (pid: number) => Promise<boolean>): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const held = await Promise.all(pids.map(holds));
  return pids.filter((_, index) => held[index]);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
  }
}

/** The first error line of a CRIU log that is not one of its harmless ones. */
export async function criuError(logFile: string): Promise<string | undefined> {
  const log = await readFile(logFile, "utf8").catch(() => "");
  const errors = log.split("\n").filter((line) => /\bError \(/.test(line) && !line.includes("Can't setup RLIMIT_NOFILE"));
  // CRIU names the cause first and its consequences after.
  return errors[0]?.replace(/^\([\d.]+\)\s*(\d+:\s*)?Error \([^)]*\):\s*/, "").trim();
}

export async function removeImages(directory: string): Promise<void> {
  await rm(directory, { recursive: true, force: true });
}
