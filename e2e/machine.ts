/** What a test host and a node of a test cluster are: namespaces and cgroups of their own, with an init that ends with the test runner. */
import { type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { asCgroupRoots, inCgroups, initOf, killCgroups, makeCgroup, removeCgroups } from "./cgroups.ts";
import { end, firstLine, type Place, placeAt, spawnTied } from "./place.ts";

export type Machine = Readonly<{
  place: Place;
  /** Its init as the test runner sees it. @throws Error while it is off */
  initPid(): number;
  isOn(): boolean;
  /** A path of the machine, as the test runner reaches it. */
  path(inside: string): string;
  /** @param init a shell script beside this file and its arguments; it prints its pid, and when it is ready (see machine-init.sh) */
  powerOn(init: readonly [script: string, ...args: string[]]): Promise<number>;
  /** Everything in it ends at once. */
  powerOff(): Promise<void>;
}>;

/** Off at first. */
export function createMachine({
  name,
  address,
  cgroupVersion,
  cgroups,
}: {
  name: string;
  address: string;
  cgroupVersion: 1 | 2;
  cgroups: readonly string[];
}): Machine {
  let init: { process: ChildProcess; pid: number } | undefined;
  const initPid = () => {
    if (!init) throw new Error(`${name} is off`);
    return init.pid;
  };
  const enter = () => [
    ...inCgroups(cgroups.map((cgroup) => initOf(cgroup, cgroupVersion))),
    "nsenter",
    `--target=${initPid()}`,
    ...["mount", "uts", "ipc", "net", "pid", "cgroup"].map((namespace) => `--${namespace}`),
    "--",
    // nsenter forks to enter the pid namespace: what it started must not outlive it.
    "setpriv",
    "--pdeathsig=KILL",
  ];

  return {
    place: placeAt({ address, enter, forks: true }),
    initPid,
    isOn: () => init !== undefined,
    path: (inside) => `/proc/${initPid()}/root${inside}`,
    async powerOn([script, ...args]) {
      if (init) throw new Error(`${name} is on already`);
      for (const cgroup of cgroups) makeCgroup(cgroup);
      const process = spawnTied([
        ...asCgroupRoots(cgroups, cgroupVersion),
        "unshare",
        ...["mount", "uts", "net", "ipc", "pid"].map((namespace) => `--${namespace}`),
        "--fork",
        "--kill-child",
        "--propagation=private",
        ...["sh", join(import.meta.dirname, script), ...args],
      ]);
      // Noted at once, so that a machine that does not come up is taken down as well.
      init = { process, pid: 0 };
      const ready = firstLine(process, /^ready$/);
      ready.catch(() => undefined);
      const pid = Number((await firstLine(process, /^pid \d+$/)).slice(4));
      await ready;
      init = { process, pid };
      return pid;
    },
    async powerOff() {
      const process = init?.process;
      init = undefined;
      if (!process) return;
      await killCgroups(cgroups);
      await end(process);
      await removeCgroups(cgroups);
    },
  };
}
