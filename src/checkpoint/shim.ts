/** Our side of the OCI-runtime shim's contract (`ums-runc` beside this file): one directory for each prepared restore. */
import { constants } from "node:fs";
import { access, mkdir, open, readdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import { annotate, type OciBundle, readBundle } from "./bundle.ts";
import { cgroupVersion, placeOf, version1Hierarchies } from "./cgroups.ts";
import { breakOffRestore, hasLostCriu, killRestored, removeCgroups, writeCriuSettings } from "./criu.ts";

/** Fixed, because the engine wipes the shim's environment and arguments are the engine's. */
const restoreRoot = "/run/ums/restore";

const directoryOf = (name: string) => path.join(restoreRoot, name);
const settingsOf = (name: string) => path.join(directoryOf(name), "criu.conf");
const exists = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  );

/**
 * From here on the container's `create` waits for {@link letGo}, then becomes a restore of the image directory.
 * @param name the container's id, or MIGRATION.CONTAINER for one of a pod
 * @param podUid of the pod whose container it is
 */
export async function prepareRestore({
  name,
  imageDirectory,
  podUid,
}: {
  name: string;
  imageDirectory: string;
  podUid?: string;
}): Promise<void> {
  const directory = directoryOf(name);
  await rm(directory, { recursive: true, force: true });
  await mkdir(path.join(directory, "work"), { recursive: true, mode: 0o700 });
  await symlink(imageDirectory, path.join(directory, "image"));
  if (podUid !== undefined) await writeFile(path.join(directory, "pod"), podUid);
  // Last: a shim that looks for its restore takes it as whole from here on.
  await writeCriuSettings(settingsOf(name));
}

/** Resolves with the bundle's path when the shim waits inside `create`. */
export async function waitForShim(name: string, { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal }): Promise<string> {
  const file = path.join(directoryOf(name), "bundle");
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(5)) {
    signal.throwIfAborted();
    if (await exists(file)) return readFile(file, "utf8");
  }
  throw new UmsError("SHIM_SILENT", "The container engine did not call UMS's runtime.");
}

/**
 * Says into which groups the waiting container is to be restored, and what it is to see of them.
 * On cgroup version 2 runc tells CRIU no group (1.1 to 1.4), and CRIU would make the source's again, of which neither the engine
 * nor systemd knows. On version 1 it does, but has runc's own groups mounted for the container's, which are the whole machine's.
 */
export async function placeRestore(name: string, { bundle, oci }: { bundle: string; oci: OciBundle }): Promise<void> {
  const { cgroupsPath } = oci.linux;
  if (cgroupsPath === undefined) return;
  const group = placeOf(cgroupsPath);
  // The part before the colon names version 2: a hierarchy of version 1 that a machine has beside it stays as it is.
  if ((await cgroupVersion()) === 2) return writeCriuSettings(settingsOf(name), [`cgroup-root :${group}`]);
  const mounts = oci.mounts.filter(({ type }) => type === "cgroup");
  const hierarchies = await version1Hierarchies();
  const views = mounts.flatMap(({ destination }) =>
    hierarchies.map((hierarchy) => `external mnt[${path.join(destination, path.basename(hierarchy))}]:${path.join(hierarchy, group)}`),
  );
  await writeCriuSettings(settingsOf(name), views);
  // What runc asks for itself comes after the settings of CRIU's environment, and before those.
  await annotate(bundle, criuAnnotation, settingsOf(name));
}

const criuAnnotation = "org.criu.config";

/** Takes back what {@link placeRestore} has written into the bundle, where engines look for annotations of the service. */
export async function endPlacing(name: string): Promise<void> {
  const bundle = await readFile(path.join(directoryOf(name), "bundle"), "utf8");
  if ((await readBundle(bundle)).annotations?.[criuAnnotation] === settingsOf(name)) await annotate(bundle, criuAnnotation, undefined);
}

/** Notes the network namespace that is held until the restored container's clients may come. */
export const noteHeldNetwork = (name: string, namespace: string) => writeFile(path.join(directoryOf(name), "network"), namespace);

/** What {@link noteHeldNetwork} has noted, as long as the restore is not forgotten. */
export const heldNetwork = (name: string) => readFile(path.join(directoryOf(name), "network"), "utf8").catch(() => undefined);

/** Notes that the restored container is the service now: who comes later may forget its restore. A commit never fails for it. */
export async function noteCommitted(name: string): Promise<void> {
  await writeFile(path.join(directoryOf(name), "committed"), "").catch(() => undefined); // forgotten already, for instance
}

/** Forgets each restore that {@link noteCommitted} has noted. */
export async function forgetCommitted(): Promise<void> {
  const entries = await readdir(restoreRoot, { withFileTypes: true }).catch(() => []);
  for (const { name } of entries.filter((entry) => entry.isDirectory()))
    if (await exists(path.join(directoryOf(name), "committed"))) await forgetRestore(name);
}

/** Tells a waiting shim to restore or to give up. @returns whether one was waiting */
export async function letGo(name: string, verdict: "restore" | "give-up"): Promise<boolean> {
  for (let attempt = 0; attempt < 20; attempt++) {
    try {
      const bundle = await readFile(path.join(directoryOf(name), "bundle"), "utf8");
      await using fifo = await open(path.join(bundle, "ums.go"), constants.O_WRONLY | constants.O_NONBLOCK);
      await fifo.write(verdict);
      return true;
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException;
      if (code === "ENOENT") return false;
      if (code !== "ENXIO") throw cause;
      // Nobody reads yet: the shim opens the FIFO a moment after it has said where its bundle is.
      await sleep(5);
    }
  }
  return false;
}

/** Resolves when the engine has called `start` for the restored container, or runc has failed. */
export async function restoreOutcome(
  name: string,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<"started" | "failed"> {
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(2)) {
    signal.throwIfAborted();
    for (const end of ["started", "failed"] as const) if (await exists(path.join(directoryOf(name), end))) return end;
  }
  throw new UmsError("TIMED_OUT", `The restore took longer than ${timeoutMs} ms.`);
}

/** The end of a restore, or an error soon after its CRIU has ended without it. @throws UmsError RESTORE_FAILED */
export async function unlessCriuIsLost<End>(name: string, restore: Promise<End>): Promise<End> {
  const ended = new AbortController();
  try {
    return await Promise.race([restore, lossOfCriu(name, ended.signal)]);
  } finally {
    ended.abort();
  }
}

async function lossOfCriu(name: string, signal: AbortSignal): Promise<never> {
  // Twice in a row: a runc that is about to end has not yet collected its CRIU.
  for (let sightings = 0; sightings < 2;) {
    await sleep(lookMs, undefined, { signal });
    const lost = await Promise.all([name, ...(await linksTo(name))].map((id) => hasLostCriu(settingsOf(id))));
    sightings = lost.some(Boolean) ? sightings + 1 : 0;
  }
  throw new UmsError("RESTORE_FAILED", "CRIU was killed while it restored the service.");
}

/** Longer than most restores take: a look reads every process's environment. */
const lookMs = 1_500;

/** Whether the engine has begun to end a container that was restored, which may still run then. */
export const isDoomed = (name: string) => exists(path.join(directoryOf(name), "doomed"));

export const restoreLog = (name: string) => path.join(directoryOf(name), "work", "restore.log");

/**
 * Breaks off what still works on this restore, and removes what runc can't: a CRIU whose runc was killed goes on for a
 * while, in a place that the engine could not remove beneath it; tasks whose CRIU was killed may go on as the service, and
 * the engine knows nothing of them. Must come before the engine removes the container. One that has been restored is not touched.
 * @throws UmsError CRIU_REMAINS
 */
export async function breakOff(name: string): Promise<void> {
  for (const id of [name, ...(await linksTo(name))]) {
    await breakOffRestore(settingsOf(id), id);
    if (!(await exists(path.join(directoryOf(id), "started")))) {
      await killRestored(id);
      await removeCgroups(id);
    }
    await removeMountRoots(restoreLog(id));
    for (const root of (await mountPoints()).filter((point) => point.endsWith(`/${id}/criu-root`))) {
      await unmount(root);
      // runc knows nothing of a container whose restore has not ended.
      await rm(path.dirname(root), { recursive: true, force: true });
    }
  }
}

/** A CRIU that was killed leaves the directory, in its node's own /tmp, below which it mounts what the container will see. */
async function removeMountRoots(log: string): Promise<void> {
  const text = await readFile(log, "utf8").catch(() => "");
  const remove = 'umount --lazy "$0" 2>/dev/null; exec rmdir "$0"';
  for (const root of new Set(text.match(/\/tmp\/\.criu\.mntns\.\w{6}\b/g)))
    // CRIU's own end removes it, too.
    await execa("nsenter", ["--mount=/proc/1/ns/mnt", "sh", "-c", remove, root], { reject: false, timeout: 10_000 });
}

export async function forgetRestore(name: string): Promise<void> {
  const directory = directoryOf(name);
  const links = await linksTo(name);
  // A killed restore leaves cgroup hierarchies mounted in its work path; removing through them would walk into live cgroups.
  // In a container of its own this process sees them twice: also in its own root, as the node's /run/containerd has it.
  const mounts = (await mountPoints()).filter((point) => point.includes(`${directory}/`));
  for (const mount of mounts.toReversed()) await unmount(mount);
  await rm(directory, { recursive: true, force: true });
  for (const link of links) await rm(directoryOf(link), { force: true });
}

/** A pod's container has a link by its id. */
async function linksTo(name: string): Promise<string[]> {
  const entries = await readdir(restoreRoot, { withFileTypes: true }).catch(() => []);
  const names = entries.filter((entry) => entry.isSymbolicLink()).map((entry) => entry.name);
  const targets = await Promise.all(names.map((link) => readlink(directoryOf(link)).catch(() => undefined)));
  return names.filter((_, index) => targets[index] === name);
}

async function mountPoints(): Promise<string[]> {
  return (await readFile("/proc/self/mountinfo", "utf8")).split("\n").flatMap((line) => line.split(" ")[4] ?? []);
}

const unmount = (point: string) => execa("umount", ["--lazy", point], { reject: false, timeout: 10_000 });
