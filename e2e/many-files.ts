/** A service with very many files, moved: neither its source nor its destination stops answering or grows with their number. */
import { readFileSync } from "node:fs";
import { moved } from "./disturbance.ts";
import { imageReference } from "./images.ts";
import type { RunningProcess } from "./place.ts";
import { createSites, type TestSite } from "./sites.ts";

/** Of a thousand callers all but one; on a machine that is busy with the files themselves a single one may wait for longer. */
const usualMs = 200;
const longestMs = 2_000;
const growthBytes = 200 << 20;
const migrateMs = 20 * 60_000;

const makeFiles = `import os, sys
for directory in range(int(sys.argv[2]) // 1000):
    path = f"{sys.argv[1]}/{directory:04}"
    os.mkdir(path)
    for number in range(1000):
        os.close(os.open(f"{path}/file-{number:04}", os.O_CREAT | os.O_WRONLY, 0o644))
`;

/** @returns how it went, in words @throws Error naming what was too much */
export async function moveManyFiles(count: number): Promise<string> {
  const limits = { preflightSeconds: 600, reserveSeconds: 600, preCopySeconds: 3600, transferSeconds: 600, restoreSeconds: 60 };
  await using sites = await createSites({ images: ["redis", "services"], configuration: { logLevel: "info", limits } });
  const { a, b } = sites;
  await a.host.podman(["run", "--detach", "--name", "many", "--volume", "many:/data", imageReference("services"), "sleep", "infinity"]);
  const directory = (await a.host.podman(["volume", "inspect", "--format", "{{.Mountpoint}}", "many"])).stdout;
  await a.host.exec(["python3", "-c", makeFiles, directory, String(count)], { timeoutMs: 600_000 });
  await a.host.exec(["sync"], { timeoutMs: 300_000 }); // what the service itself has written is not UMS's to wait for
  const watched = await Promise.all([a, b].map(watch));
  const { totalMs = 0, heldMs = 0 } = await moved(a, b, "many", { timeoutMs: migrateMs });
  const results = watched.map((each) => each.end());
  const arrived = await b.host.exec(["sh", "-c", `find '${directory}' -type f | wc -l`], { timeoutMs: 300_000 });
  const words = results.map(
    ({ name, usual, longest, grown }) =>
      `callers of ${name} waited ${usual} ms (999 of 1000), ${longest} ms at most, and it grew by ${(grown / 2 ** 20).toFixed()} MiB`,
  );
  const told = `${arrived.stdout.trim()} files in ${(totalMs / 1000).toFixed(1)} s, held ${heldMs.toFixed()} ms; ${words.join("; ")}`;
  const isGood =
    Number(arrived.stdout) === count &&
    results.every(({ usual, longest, grown }) => usual <= usualMs && longest <= longestMs && grown <= growthBytes);
  if (!isGood) throw new Error(told);
  return told;
}

/** How long `ums serve` lets a caller wait at most, and how large it becomes. */
async function watch({ host, name, serve }: TestSite) {
  const prober = await host.spawn([process.execPath, new URL("prober.ts", import.meta.url).pathname]);
  await prober.waitForLine(/^waited/);
  const before = memoryOf(serve(), "VmRSS");
  return {
    end() {
      prober.kill("SIGKILL");
      const waits = [...prober.output().matchAll(/^waited (\d+)$/gm)].map(([, ms]) => Number(ms)).toSorted((one, other) => one - other);
      const usual = waits[Math.floor(waits.length * 0.999)] ?? 0;
      return { name, usual, longest: waits.at(-1) ?? 0, grown: memoryOf(serve(), "VmHWM") - before };
    },
  };
}

const memoryOf = ({ outerPid }: RunningProcess, which: "VmRSS" | "VmHWM") =>
  Number(new RegExp(`^${which}:\\s+(\\d+)`, "m").exec(readFileSync(`/proc/${outerPid}/status`, "utf8"))?.[1]) * 1024;
