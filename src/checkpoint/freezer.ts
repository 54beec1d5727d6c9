/** The cgroup freezer of a process: version 1 (its own hierarchy) and version 2 (part of every cgroup). */
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../errors.ts";

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
