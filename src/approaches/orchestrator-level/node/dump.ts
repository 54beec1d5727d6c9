/** The dump that a migration has made of its pod, which its source's node keeps until the migration cleans up, or the node is started again. */
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { bootId } from "../../../machine/boot-id.ts";
import type { PodOnNode } from "../../../protocol/pod.ts";
import { makeImageDirectory } from "../../../transfer/memory.ts";

/** Apart from what arrives under the same id, on a node to which a pod of this very cluster comes. */
export const dumpName = (id: string) => `leaving-${id}`;

/** Beside the containers' directories, none of which can be called so. Nobody has synced the images: after a power loss they may have holes. */
const bootFile = ".boot";
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
  const directory = await makeImageDirectory(imageDirectories, dumpName(id), memoryBytes);
  for (const { name } of pod.containers) await mkdir(path.join(directory, name), { mode: 0o700 });
  await writeFile(path.join(directory, bootFile), await bootId());
  return directory;
}

/** Whether it was made by {@link makeRoomForDump} since the node's last start. */
export async function isDump(directory: string): Promise<boolean> {
  return (await readFile(path.join(directory, bootFile), "utf8").catch(() => undefined)) === (await bootId());
}

/** @returns undefined where it is not whole, or was made before the node's last start */
export async function findDump(imageDirectories: readonly string[], id: string, pod: PodOnNode): Promise<string | undefined> {
  for (const candidate of imageDirectories) {
    const directory = path.join(candidate, dumpName(id));
    if (!(await isDump(directory))) continue;
    const images = await Promise.all(pod.containers.map(({ name }) => stat(path.join(directory, name, lastImage)).catch(() => undefined)));
    if (images.every((image) => image !== undefined && image.size > 0)) return directory;
  }
  return undefined;
}
