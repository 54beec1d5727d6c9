/** The cgroups that a run makes for its hosts and nodes, of either version. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { readLines, walk } from "./listing.ts";

const cgroupRoot = "/sys/fs/cgroup";

/** What the machine has, unless a run asks for the other. */
export function machineCgroupVersion(): 1 | 2 {
  return existsSync(join(cgroupRoot, "cgroup.controllers")) ? 2 : 1;
}

/** This process's own groups: hosts live below them, so that limits set on the runner hold for them too. */
export function ownCgroups(version: 1 | 2): string[] {
  const own = readFileSync("/proc/self/cgroup", "utf8").trim().split("\n");
  // Not below its own: a v2 group that has processes cannot give controllers to its children.
  if (version === 2) return [unifiedRoot()];
  return own.flatMap((line) => {
    const [, controllers = "", group = "/"] = line.split(":");
    const directory = join(cgroupRoot, controllers.replace(/^name=/, ""));
    return controllers !== "" && existsSync(directory) ? [join(directory, group)] : [];
  });
}

/** Where the machine's tree of version 2 is, of which a hybrid one has v1 beside it. */
export function unifiedRoot(): string {
  return existsSync(join(cgroupRoot, "unified")) ? join(cgroupRoot, "unified") : cgroupRoot;
}

export function makeCgroup(cgroup: string): void {
  if (existsSync(cgroup)) return;
  const parent = dirname(cgroup);
  if (!existsSync(parent)) makeCgroup(parent);
  const controllers = join(parent, "cgroup.controllers");
  if (existsSync(controllers)) {
    for (const controller of readFileSync(controllers, "utf8").trim().split(" ").filter(Boolean)) {
      writeFileSync(join(parent, "cgroup.subtree_control"), `+${controller}`);
    }
  }
  mkdirSync(cgroup);
  // A fresh cpuset has no CPUs, and then takes no process.
  for (const file of ["cpuset.cpus", "cpuset.mems"]) {
    if (existsSync(join(parent, file)) && !existsSync(controllers)) writeFileSync(join(cgroup, file), readFileSync(join(parent, file)));
  }
}

export function inCgroups(cgroups: readonly string[]): string[] {
  const join = 'set -e; while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs"; shift; done; shift; exec "$@"';
  return ["sh", "-c", join, "sh", ...cgroups, "--"];
}

/** What follows has a cgroup namespace with these groups as its roots. A v2 group that has processes can't give controllers to its children, so it lives in {@link initOf}. */
export function asCgroupRoots(cgroups: readonly string[], version: 1 | 2): string[] {
  const enabled = 'for controller in $(cat "$1/cgroup.controllers"); do echo "+$controller" >"$1/cgroup.subtree_control"; done';
  const init = `set -e; while [ "$1" != -- ]; do mkdir -p "$1/init"; echo 0 >"$1/init/cgroup.procs"; ${enabled}; shift; done; shift; exec "$@"`;
  return [...inCgroups(cgroups), "unshare", "--cgroup", ...(version === 1 ? [] : ["sh", "-c", init, "sh", ...cgroups, "--"])];
}

/** Where the processes of {@link asCgroupRoots} are. */
export const initOf = (cgroup: string, version: 1 | 2) => (version === 1 ? cgroup : join(cgroup, "init"));

function withDescendants(cgroup: string): string[] {
  return [...walk(cgroup, "directories").map((name) => join(cgroup, name)), ...(existsSync(cgroup) ? [cgroup] : [])];
}

export async function killCgroups(cgroups: readonly string[], timeoutMs = 10_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const all = cgroups.flatMap(withDescendants);
    const pids = new Set(all.flatMap((cgroup) => readLines(join(cgroup, "cgroup.procs")).map(Number)));
    pids.delete(0);
    if (pids.size === 0) return;
    for (const pid of pids) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // it ended meanwhile
      }
    }
    // Only now: a frozen task of cgroup v1 takes the signal when it thaws, before it runs again.
    for (const cgroup of all) {
      for (const [file, thawed] of [
        ["freezer.state", "THAWED"],
        ["cgroup.freeze", "0"],
      ] as const) {
        if (existsSync(join(cgroup, file))) tryWrite(join(cgroup, file), thawed);
      }
    }
    if (Date.now() > deadline) throw new Error(`processes ${[...pids].join(", ")} do not end`);
    await sleep(5);
  }
}

export async function removeCgroups(cgroups: readonly string[], timeoutMs = 5_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    // Deepest first, as walk() lists them.
    const left = cgroups.flatMap(withDescendants).filter((cgroup) => {
      try {
        rmdirSync(cgroup);
        return false;
      } catch (error) {
        return (error as NodeJS.ErrnoException).code !== "ENOENT";
      }
    });
    if (left.length === 0) return;
    if (Date.now() > deadline) throw new Error(`cgroups cannot be removed: ${left.join(", ")}`);
    await sleep(5);
  }
}
function tryWrite(file: string, text: string): void {
  try {
    writeFileSync(file, text);
  } catch {
    // the group is gone, or its root cannot be frozen
  }
}
