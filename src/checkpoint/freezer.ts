/** The cgroup freezer of a process: version 1 (its own hierarchy) and version 2 (part of every cgroup). */
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";

const cgroupRoot = "/sys/fs/cgroup";

type Freezer = Readonly<{ version: 1 | 2; directory: string }>;

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

/** Whether every task of the process's cgroup is frozen. */
export async function isFrozen(pid: number): Promise<boolean> {
  const { version, directory } = await freezerOf(pid);
  return version === 1
    ? (await readFile(path.join(directory, "freezer.state"), "utf8")).trim() === "FROZEN"
    : (await readFile(path.join(directory, "cgroup.events"), "utf8")).includes("frozen 1");
}

/**
 * Sends SIGKILL to every task of the process's cgroup. A frozen task of cgroup version 1 dies at the thaw, before it
 * runs another instruction of its own; one of version 2 dies at once.
 */
export async function killFrozen(pid: number): Promise<void> {
  const freezer = await freezerOf(pid).catch(() => undefined);
  if (!freezer) return; // gone already
  const kill = path.join(freezer.directory, "cgroup.kill"); // Linux 5.14
  if (freezer.version === 2 && (await stat(kill).catch(() => undefined))) return writeFile(kill, "1");
  const tasks = (await readFile(path.join(freezer.directory, "cgroup.procs"), "utf8")).trim().split("\n").filter(Boolean);
  for (const task of tasks) {
    try {
      process.kill(Number(task), "SIGKILL");
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== "ESRCH") throw cause;
    }
  }
}

/** Every process of the container whose init this is: those of its cgroup and of the groups below. */
export async function processesOf(pid: number): Promise<number[]> {
  const { directory } = await freezerOf(pid);
  const groups = await readdir(directory, { recursive: true, withFileTypes: true });
  const files = [directory, ...groups.filter((group) => group.isDirectory()).map((group) => path.join(group.parentPath, group.name))];
  const lists = await Promise.all(files.map((group) => readFile(path.join(group, "cgroup.procs"), "utf8").catch(() => "")));
  return lists.flatMap((list) => list.trim().split("\n").filter(Boolean).map(Number));
}

/** Bytes of memory that the process's tasks hold privately or share anonymously: what a dump will write, at most. */
export async function memoryBytes(pid: number): Promise<number> {
  let kilobytes = 0;
  for (const task of await processesOf(pid)) {
    const status = await readFile(`/proc/${task}/status`, "utf8").catch(() => "");
    for (const field of ["RssAnon", "RssShmem", "VmSwap"])
      kilobytes += Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
  }
  return kilobytes * 1024;
}
