/** The restore of one container at its destination: its engine has made it, and waits in the runtime shim's `create`. */
import { stat } from "node:fs/promises";
import path from "node:path";
import { prepareBundle } from "../checkpoint/bundle.ts";
import { criuError } from "../checkpoint/criu.ts";
import { endPlacing, letGo, placeRestore, restoreLog, restoreOutcome, unlessCriuIsLost, waitForShim } from "../checkpoint/shim.ts";
import { UmsError } from "../errors.ts";
import type { Launch } from "../protocol/launch.ts";

export type WaitingContainer = Readonly<{
  bundle: string;
  root: string;
  /** Path of its network namespace, where it has one of its own. */
  network: string | undefined;
  /** The host's path of its /dev/shm, where that is a mount. */
  shm: string | undefined;
}>;

/**
 * Resolves when the engine waits in the shim, with the bundle made fit for a restore.
 * @param name under which the restore was prepared
 * @param options.what the container as an error names it
 * @param options.mounts external mounts of the container that was dumped
 * @throws UmsError SHIM_SILENT, CONTAINER_REMADE
 */
export async function awaitContainer(
  name: string,
  { what, mounts, timeoutMs, signal }: { what: string; mounts: Launch["mounts"]; timeoutMs: number; signal: AbortSignal },
): Promise<WaitingContainer> {
  const bundle = await waitForShim(name, { timeoutMs, signal });
  const oci = await prepareBundle(bundle, mounts).catch(async (cause: unknown) => {
    throw (await stat(bundle).catch(() => undefined)) ? cause : givenUp(what);
  });
  await placeRestore(name, { bundle, oci });
  return {
    bundle,
    root: path.resolve(bundle, oci.root.path),
    network: oci.linux.namespaces.find(({ type }) => type === "network")?.path,
    shm: oci.mounts.find(({ destination }) => destination === "/dev/shm")?.source,
  };
}

/** The error for a container that its engine did not leave waiting. */
export const givenUp = (what: string) => new UmsError("CONTAINER_REMADE", `${what} waited for its memory, and its engine has given it up.`);

/**
 * Lets the shim become a restore, and resolves when the container runs again.
 * @param options.what the container as an error names it
 * @param options.started settles with the engine's own start of the container, where this process has asked for it
 * @throws UmsError SHIM_SILENT, RESTORE_FAILED with CRIU's own reason
 */
export async function restoreContainer(
  name: string,
  { what, started, timeoutMs, signal }: { what: string; started?: Promise<void>; timeoutMs: number; signal: AbortSignal },
): Promise<void> {
  if (!(await letGo(name, "restore"))) throw new UmsError("SHIM_SILENT", "UMS's runtime no longer waits for the memory.");
  try {
    await unlessCriuIsLost(name, started ? within(timeoutMs, started) : restoredByShim(name, { timeoutMs, signal }));
    await endPlacing(name);
  } catch (cause) {
    signal.throwIfAborted();
    const reason = (await criuError(restoreLog(name))) ?? (cause instanceof Error ? cause.message : String(cause));
    throw new UmsError("RESTORE_FAILED", `${what} could not be restored: ${reason}`, { cause });
  }
}

async function restoredByShim(name: string, options: { timeoutMs: number; signal: AbortSignal }): Promise<void> {
  if ((await restoreOutcome(name, options)) === "failed") throw new Error("runc failed");
}

async function within(timeoutMs: number, action: Promise<void>): Promise<void> {
  const limit = Promise.withResolvers<never>();
  const timer = setTimeout(() => limit.reject(new UmsError("TIMED_OUT", `The restore took longer than ${timeoutMs} ms.`)), timeoutMs);
  try {
    await Promise.race([action, limit.promise]);
  } finally {
    clearTimeout(timer);
  }
}
