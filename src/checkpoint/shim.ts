/** Our side of the OCI-runtime shim's contract (`ums-runc` beside this file): one directory for each prepared restore. */
import { constants } from "node:fs";
import { access, mkdir, open, readFile, rm, symlink } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import { writeCriuSettings } from "./runc.ts";

/** Fixed, because the engine wipes the shim's environment and arguments are the engine's. */
const restoreRoot = "/run/ums/restore";

const directoryOf = (containerId: string) => path.join(restoreRoot, containerId);
const exists = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  );

/** From here on the container's `create` waits for {@link letGo}, then becomes a restore of the image directory. */
export async function prepareRestore({ containerId, imageDirectory }: { containerId: string; imageDirectory: string }): Promise<void> {
  const directory = directoryOf(containerId);
  await rm(directory, { recursive: true, force: true });
  await mkdir(path.join(directory, "work"), { recursive: true, mode: 0o700 });
  await execa("mkfifo", ["-m", "600", path.join(directory, "go")]);
  await symlink(imageDirectory, path.join(directory, "image"));
  await writeCriuSettings(path.join(directory, "criu.conf"));
}

/** Resolves with the bundle's path when the shim waits inside `create`. */
export async function waitForShim(containerId: string, { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal }): Promise<string> {
  const file = path.join(directoryOf(containerId), "bundle");
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(5)) {
    signal.throwIfAborted();
    if (await exists(file)) return readFile(file, "utf8");
  }
  throw new UmsError("SHIM_SILENT", "The container engine did not call UMS's runtime.");
}

/** Tells a waiting shim to restore or to give up. @returns whether one was waiting */
export async function letGo(containerId: string, verdict: "restore" | "give-up"): Promise<boolean> {
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      await using fifo = await open(path.join(directoryOf(containerId), "go"), constants.O_WRONLY | constants.O_NONBLOCK);
      await fifo.write(verdict);
      return true;
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      if (code === "ENOENT") return false;
      if (code !== "ENXIO") throw cause;
      // Nobody reads yet: the shim opens the FIFO a moment after it has said where its bundle is.
      if (!(await exists(path.join(directoryOf(containerId), "bundle")))) return false;
      await sleep(5);
    }
  }
  return false;
}

export const restoreLog = (containerId: string) => path.join(directoryOf(containerId), "work", "restore.log");

export async function forgetRestore(containerId: string): Promise<void> {
  const directory = directoryOf(containerId);
  // A killed restore leaves cgroup hierarchies mounted in its work path; removing through them would walk into live cgroups.
  const mounts = (await readFile("/proc/self/mountinfo", "utf8")).split("\n").flatMap((line) => line.split(" ")[4] ?? []);
  for (const mount of mounts.filter((point) => point.startsWith(`${directory}/`)).toReversed())
    await execa("umount", ["--lazy", mount], { reject: false });
  await rm(directory, { recursive: true, force: true });
}
