/** The dump that a migration has made of its pod: where its source's node keeps it until the migration has ended. */
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { bootId } from "../../../preflight/machine.ts";
import { makeImageDirectory } from "../../../transfer/memory.ts";
import type { PodOnNode } from "../protocol.ts";

/** Beside the containers' directories. Nobody has synced the images: after a power loss they may have holes. */
const bootFile = "boot";
/** What CRIU writes last, when all tasks are dumped (criu/cr-dump.c, cr_dump_tasks). */
const lastImage = "inventory.img";

/**
 * Makes a directory with one for each container in it.
 * @throws UmsError NO_ROOM
 */
export async function makeRoomForDump(
  imageDirectories: readonly string[],
  id: string,
  { pod, memoryBytes }: { pod: PodOnNode; memoryBytes: number },
): Promise<string> {
  const directory = await makeImageDirectory(imageDirectories, id, memoryBytes);
  for (const { name } of pod.containers) await mkdir(path.join(directory, name), { mode: 0o700 });
  await writeFile(path.join(directory, bootFile), await bootId());
  return directory;
}

/** @returns undefined where it is not whole, or was made before the node's last start */
export async function findDump(imageDirectories: readonly string[], id: string, pod: PodOnNode): Promise<string | undefined> {
  const boot = await bootId();
  for (const candidate of imageDirectories) {
    const directory = path.join(candidate, id);
    if ((await readFile(path.join(directory, bootFile), "utf8").catch(() => undefined)) !== boot) continue;
    const images = await Promise.all(pod.containers.map(({ name }) => stat(path.join(directory, name, lastImage)).catch(() => undefined)));
    if (images.every((image) => image !== undefined && image.size > 0)) return directory;
  }
  return undefined;
}
