/** What a run of the tests has on the machine: a directory and cgroups, which go with it, also when it is killed. */
import { spawn as spawnChild } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { killCgroups, machineCgroupVersion, ownCgroups, removeCgroups } from "./cgroups.ts";
import { listDirectory, readLines } from "./listing.ts";

const runsDirectory = process.env.UMS_E2E_DIRECTORY ?? "/var/tmp/ums-e2e";

/** What one caller of {@link createRun} has for itself. */
export type Run = Readonly<{
  /** Short, and unlike those of other runs. */ id: string;
  directory: string;
  cgroupVersion: 1 | 2;
  cgroups: readonly string[];
}>;

let runCounter = 0;

/** A directory and cgroups of its own; the stack removes them. Sweeps first what killed runs left. */
export async function createRun(stack: AsyncDisposableStack, cgroupVersion = machineCgroupVersion()): Promise<Run> {
  await sweep();
  const run = `${process.pid}-${startTime(process.pid)}-${++runCounter}`;
  const directory = join(runsDirectory, run);
  const cgroups = ownCgroups(cgroupVersion).map((cgroup) => join(cgroup, `ums-e2e-${run}`));
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "cgroups.json"), JSON.stringify(cgroups));
  // Cleans up after a runner that had no time to: its end closes the pipe.
  const keeper = spawnChild(
    "sh",
    ["-c", 'cat >/dev/null; exec "$@"', "sh", process.execPath, fileURLToPath(import.meta.url), "sweep", run],
    { stdio: ["pipe", "ignore", "ignore"], detached: true, cwd: "/" },
  );
  keeper.unref();
  stack.defer(() => void keeper.stdin.end());
  stack.defer(() => removeRun(run));
  return { id: `${process.pid}-${runCounter}`, directory, cgroupVersion, cgroups };
}

/** Start time in clock ticks: with the pid it names a process for good. */
export function startTime(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ")[19];
  } catch {
    return undefined;
  }
}

/** Removes what runs left whose test runner is dead. */
async function sweep(): Promise<void> {
  for (const run of listDirectory(runsDirectory)) {
    const [pid, start] = run.split("-");
    if (startTime(Number(pid)) !== start) await removeRun(run);
  }
}

async function removeRun(run: string): Promise<void> {
  const directory = join(runsDirectory, run);
  const record = readLines(join(directory, "cgroups.json"))[0];
  const cgroups = record === undefined ? [] : (JSON.parse(record) as string[]);
  await killCgroups(cgroups);
  await removeCgroups(cgroups);
  // A killed interface leaves its marks in a node's files.
  await execa("chattr", ["-R", "-f", "-i", directory], { reject: false });
  await execa("rm", ["-rf", "--one-file-system", directory]);
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === "sweep") await sweep();
