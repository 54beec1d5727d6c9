/** Whether this machine can take a service in, whatever makes its containers here. */
import { readFile, stat, statfs } from "node:fs/promises";
import path from "node:path";
import { machineMeasures } from "../machine/measures.ts";
import { isAtLeast, numbersOf } from "../machine/version.ts";
import type { CheckResult, Measures } from "../protocol/measures.ts";
import { imageSlackBytes } from "../transfer/memory.ts";
import { isTmpfs } from "../transfer/tree.ts";
import { verdict } from "./check.ts";

const mebibytes = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;

/** The kernel, the CPU and the cgroups against those of the source. */
export async function sameMachine(there: Measures): Promise<CheckResult[]> {
  const here = await machineMeasures();
  const wanted = numbersOf(there.kernel).slice(0, 2).join(".");
  const missing = there.cpuFeatures.filter((feature) => !here.cpuFeatures.includes(feature));
  const isSameVersion = here.cgroupVersion === there.cgroupVersion;
  return [
    verdict(
      "kernel",
      "KERNEL_OLDER",
      isAtLeast(here.kernel, wanted) ? [] : [`The source runs Linux ${there.kernel}, this machine ${here.kernel}.`],
    ),
    verdict("CPU", "CPU_FEATURES", missing.length === 0 ? [] : [`Missing: ${missing.join(", ")}.`]),
    verdict(
      "cgroups",
      "CGROUP_VERSION",
      isSameVersion ? [] : [`The source has cgroup version ${there.cgroupVersion}, this machine version ${here.cgroupVersion}.`],
    ),
  ];
}

/**
 * CRIU gives a restored mount of the host's cgroups the place among its peers that it had where it was dumped, and a mount
 * that has no peers can't hand one on. A kubelet's containers have such mounts, with cgroup version 1.
 */
export async function cgroupPeers(): Promise<CheckResult> {
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").filter((line) => line.includes(" - cgroup "));
  const alone = mounts.filter((line) => !/ (shared|master):\d+ /.test(line)).map((line) => line.split(" ")[4]);
  return verdict("cgroup mounts", "CGROUP_PRIVATE", alone.length === 0 ? [] : [`Private mounts: ${alone.join(", ")}.`]);
}

/** Room for the memory image in the first directory that has it, and for the restored memory beside it. */
export const memory = (imageDirectories: readonly string[], { memoryBytes }: Pick<Measures, "memoryBytes">): Promise<CheckResult> =>
  imageRoom(imageDirectories, memoryBytes, { besideBytes: memoryBytes });

/** Room for the memory image where the service runs, and has its memory already. */
export const dumpRoom = (imageDirectories: readonly string[], { memoryBytes }: Pick<Measures, "memoryBytes">): Promise<CheckResult> =>
  imageRoom(imageDirectories, memoryBytes, { besideBytes: 0 });

async function imageRoom(
  imageDirectories: readonly string[],
  memoryBytes: number,
  { besideBytes }: { besideBytes: number },
): Promise<CheckResult> {
  const image = memoryBytes + imageSlackBytes;
  const candidates = await Promise.all(
    imageDirectories.map(async (directory) => {
      const there = await existing(directory);
      const { bavail, bsize } = await statfs(there);
      return { roomBytes: bavail * bsize, inMemory: await isTmpfs(there) };
    }),
  );
  const chosen = candidates.find(({ roomBytes }) => roomBytes >= image);
  if (!chosen) {
    const most = Math.max(...candidates.map(({ roomBytes }) => roomBytes));
    return verdict("memory", "NO_ROOM", [
      `The image takes ${mebibytes(image)}; the roomiest of the image directories has ${mebibytes(most)}.`,
    ]);
  }
  const wanted = besideBytes + (chosen.inMemory ? image : 0);
  const available = Number(/^MemAvailable:\s+(\d+) kB$/m.exec(await readFile("/proc/meminfo", "utf8"))?.[1] ?? 0) * 1024;
  const words = [...(besideBytes > 0 ? ["the service"] : []), ...(chosen.inMemory ? ["its image in tmpfs"] : [])].join(" and ");
  return verdict(
    "memory",
    "NO_MEMORY",
    available >= wanted ? [] : [`${mebibytes(wanted)} are needed (${words}), ${mebibytes(available)} are available.`],
  );
}

/** @param wanted bytes that will lie below each directory; those of one file system count together */
export async function disk(wanted: readonly { directory: string; bytes: number }[]): Promise<CheckResult> {
  const devices = new Map<number, { directory: string; bytes: number }>();
  for (const { directory, bytes } of wanted) {
    const there = await existing(directory);
    const { dev } = await stat(there);
    devices.set(dev, { directory: devices.get(dev)?.directory ?? there, bytes: (devices.get(dev)?.bytes ?? 0) + bytes });
  }
  const short = await Promise.all(
    [...devices.values()].map(async ({ directory, bytes }) => {
      const { bavail, bsize } = await statfs(directory);
      return bavail * bsize >= bytes ? [] : [`${directory} has ${mebibytes(bavail * bsize)} of room, ${mebibytes(bytes)} are needed.`];
    }),
  );
  return verdict("disk", "NO_DISK", short.flat());
}

/** The directory itself, or the nearest above it that is there. */
export async function existing(directory: string): Promise<string> {
  for (let at = directory; ; at = path.dirname(at)) if (at === "/" || (await stat(at).catch(() => undefined))) return at;
}
