/** How large a service is, and whose. */
import { readFile } from "node:fs/promises";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import { endWith, ownGroup, readingAll } from "../transfer/confined.ts";

const diskUsageMs = 120_000;

/** What a file costs beside its blocks: its inode and name, or its headers in an archive. */
const nameBytes = 2 << 10;

/** Blocks in use, so that sparse files count as what they take, and what their names cost: a million empty files are much. */
export async function diskUsage(directories: readonly string[], signal: AbortSignal): Promise<number> {
  const there = directories.filter((directory) => directory !== "");
  if (there.length === 0) return 0;
  const [bytes, names] = await Promise.all([total(there, "--block-size=1", signal), total(there, "--inodes", signal)]);
  return bytes + names * nameBytes;
}

/** @throws UmsError FILES_UNREADABLE */
async function total(directories: readonly string[], what: string, signal: AbortSignal): Promise<number> {
  // A file that vanishes while du looks makes it end with 1; the total is told all the same.
  const [confine, ...confinement] = readingAll(directories);
  const names = directories.map((_, at) => String(at));
  const counting = execa(confine, [...confinement, "du", "--summarize", "--total", what, "--", ...names], {
    ...ownGroup,
    stdin: "ignore",
    reject: false,
    env: { LC_ALL: "C" },
  });
  endWith(counting, AbortSignal.any([signal, AbortSignal.timeout(diskUsageMs)]));
  const { stdout } = await counting;
  signal.throwIfAborted();
  const told = /^(\d+)\ttotal$/m.exec(stdout)?.[1];
  if (told === undefined) throw new UmsError("FILES_UNREADABLE", `The size of ${directories.join(", ")} could not be found out.`);
  return Number(told);
}

/** Whose processes they are, as the host sees it. */
export async function uidsOf(pids: readonly number[]): Promise<number[]> {
  const statuses = await Promise.all(pids.map((each) => readFile(`/proc/${each}/status`, "utf8").catch(() => "")));
  const uids = statuses.flatMap((status) => (/^Uid:\s+(.*)$/m.exec(status)?.[1] ?? "").split(/\s+/).filter(Boolean).map(Number));
  return [...new Set(uids)].toSorted((a, b) => a - b);
}
