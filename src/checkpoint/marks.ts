/** Durable marks on containers that must not start, read by the OCI hook `refuse-held` before anything of them runs. */
import { mkdir, open, readdir, rm } from "node:fs/promises";
import path from "node:path";

export type Marks = Readonly<{
  set(containerId: string): Promise<void>;
  clear(containerId: string): Promise<void>;
  all(): Promise<string[]>;
}>;

/** Where a host's coordinator has them, and its hook looks for them. */
export const marksIn = (stateDirectory: string) => path.join(stateDirectory, "held");

/** @param directory on disk, so that the marks outlive a reboot */
export function createMarks(directory: string): Marks {
  const sync = async () => {
    await using handle = await open(directory, "r");
    await handle.sync();
  };
  return {
    async set(containerId) {
      await mkdir(directory, { recursive: true, mode: 0o755 });
      await (await open(path.join(directory, containerId), "w")).close();
      await sync();
    },
    async clear(containerId) {
      await rm(path.join(directory, containerId), { force: true });
    },
    all: () => readdir(directory).catch(() => []),
  };
}
