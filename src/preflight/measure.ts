/** How large a service is, and whose. */
import { readFile } from "node:fs/promises";
import { execa } from "execa";
import { processesOf } from "../checkpoint/freezer.ts";
import { UmsError } from "../errors.ts";
import { endWith, ownGroup, readingAll } from "../transfer/confined.ts";

const diskUsageMs = 120_000;

/** Blocks in use, so that sparse files count as what they take. */
export async function diskUsage(directories: readonly string[], signal: AbortSignal): Promise<number> {
  const there = directories.filter((directory) => directory !== "");
  if (there.length === 0) return 0;
  // A file that vanishes while du looks makes it end with 1; the total is told all the same.
  const [confine, ...confinement] = readingAll(there);
  const names = there.map((_, at) => String(at));
  const counting = execa(confine, [...confinement, "du", "--summarize", "--total", "--block-size=1", "--", ...names], {
    ...ownGroup,
    stdin: "ignore",
    reject: false,
    env: { LC_ALL: "C" },
  });
  endWith(counting, AbortSignal.any([signal, AbortSignal.timeout(diskUsageMs)]));
  const { stdout } = await counting;
  signal.throwIfAborted();
  const total = /^(\d+)\ttotal$/m.exec(stdout)?.[1];
  if (total === undefined) throw new UmsError("FILES_UNREADABLE", `The size of ${there.join(", ")} could not be found out.`);
  return Number(total);
}

/** uids of a container's processes, as the host sees them. */
export async function uidsOf(pid: number): Promise<number[]> {
  const statuses = await Promise.all((await processesOf(pid)).map((each) => readFile(`/proc/${each}/status`, "utf8").catch(() => "")));
  const uids = statuses.flatMap((status) => (/^Uid:\s+(.*)$/m.exec(status)?.[1] ?? "").split(/\s+/).filter(Boolean).map(Number));
  return [...new Set(uids)].toSorted((a, b) => a - b);
}
