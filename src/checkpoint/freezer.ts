/** The cgroup freezer: version 1 (its own hierarchy) and version 2 (part of every cgroup). */
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../errors.ts";
import { type Group, groupOf, wholeGroup } from "./cgroups.ts";

/** A group that can be frozen, with all that is in it. */
export type Freezer = Group;

/**
 * The group of a container that runs.
 * @param container.pid its init when it was looked up
 * @returns undefined when that is gone: its process id may be another's
 * @throws UmsError CGROUP_UNUSABLE
 */
export async function freezerOf({ pid, id }: { pid: number; id: string }): Promise<Freezer | undefined> {
  const group = await groupOf(pid).catch(undefinedIfGone);
  return group && wholeGroup(group, id);
}

/** The group above: a pod's, for one of its containers. */
export const parentOf = ({ version, directory }: Freezer): Freezer => ({ version, directory: path.dirname(directory) });

async function stateOf({ version, directory }: Freezer): Promise<boolean> {
  return version === 1
    ? (await readFile(path.join(directory, "freezer.state"), "utf8")).trim() === "FROZEN"
    : (await readFile(path.join(directory, "cgroup.events"), "utf8")).includes("frozen 1");
}

/** Whether every task of a group is frozen; one that is gone is not. */
export const isGroupFrozen = async (freezer: Freezer) => (await stateOf(freezer).catch(undefinedIfGone)) ?? false;

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

const sigkill = 1n << 8n;

/**
 * Whether a container's init has been killed: it is gone, or its SIGKILL waits for the thaw, until which a frozen task of
 * cgroup version 1 outlives it.
 * @param container.pid its init when it was frozen
 */
export async function isKilled(container: { pid: number; id: string }): Promise<boolean> {
  if (!(await freezerOf(container))) return true;
  const status = (await readFile(`/proc/${container.pid}/status`, "utf8").catch(undefinedIfGone)) ?? "";
  const masks = [...status.matchAll(/^(?:SigPnd|ShdPnd):\s+([0-9a-f]+)$/gm)].map(([, mask]) => BigInt(`0x${mask}`));
  // Nobody may have collected it yet.
  return status === "" || /^State:\s+[ZX]/m.test(status) || masks.some((mask) => (mask & sigkill) !== 0n);
}

/** Of a look at a process or a group. What else can go wrong with it tells nothing of whether that is there. */
function undefinedIfGone(cause: unknown): undefined {
  const { code } = cause as NodeJS.ErrnoException;
  if (code !== "ENOENT" && code !== "ESRCH" && code !== "ENODEV") throw cause;
}

/**
 * Sends SIGKILL to every task of a group and all below it. A frozen task of cgroup version 1 dies at the thaw, before it
 * runs another instruction of its own; one of version 2 dies at once. A group that is gone has none.
 */
export async function killGroup(freezer: Freezer): Promise<void> {
  const kill = path.join(freezer.directory, "cgroup.kill"); // Linux 5.14
  if (freezer.version === 2 && (await stat(kill).catch(() => undefined))) return void (await writeFile(kill, "1").catch(undefinedIfGone));
  for (const task of (await processesIn(freezer).catch(undefinedIfGone)) ?? []) {
    try {
      process.kill(task, "SIGKILL");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
    }
  }
}

/** Every process of a container, of the groups below its own too; none when it has ended. */
export async function processesOf(container: { pid: number; id: string }): Promise<number[]> {
  const freezer = await freezerOf(container);
  return freezer ? await processesIn(freezer) : [];
}

export async function processesIn({ directory }: Freezer): Promise<number[]> {
  const groups = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = [directory, ...groups.filter((group) => group.isDirectory()).map((group) => path.join(group.parentPath, group.name))];
  const lists = await Promise.all(files.map((group) => readFile(path.join(group, "cgroup.procs"), "utf8").catch(() => "")));
  return lists.flatMap((list) => list.trim().split("\n").filter(Boolean).map(Number));
}

/** Bytes of memory that processes hold privately or share anonymously: what a dump will write, at most. */
export async function memoryOf(pids: readonly number[]): Promise<number> {
  let kilobytes = 0;
  for (const pid of pids) {
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
    for (const field of ["RssAnon", "RssShmem", "VmSwap"])
      kilobytes += Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
  }
  return kilobytes * 1024;
}

/** The same for a group and all below it. */
export async function memoryIn(freezer: Freezer): Promise<number> {
  return memoryOf(await processesIn(freezer));
}
