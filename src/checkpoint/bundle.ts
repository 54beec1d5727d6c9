/** The OCI bundle that an engine has made for a container: of one that runs, and of one that is about to be restored. */
import { chmod, mkdir, readFile, realpath, rename, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { execa } from "execa";
import type { ExternalMount, Launch } from "../protocol/launch.ts";

/** The parts of an OCI configuration that UMS reads (opencontainers/runtime-spec, config.md). */
export type OciBundle = {
  root: { path: string };
  annotations?: Record<string, string>;
  process: { args: string[]; env?: string[]; cwd: string; user: { uid: number; gid: number; additionalGids?: number[] } };
  linux: {
    namespaces: { type: string; path?: string }[];
    cgroupsPath?: string;
    maskedPaths?: string[];
    devices?: { path: string }[];
    resources?: { memory?: { limit?: number }; cpu?: { shares?: number; quota?: number; period?: number } };
  };
  mounts: { type?: string; destination: string; source: string; options?: string[] }[];
};

export async function readBundle(bundle: string): Promise<OciBundle> {
  return JSON.parse(await readFile(path.join(bundle, "config.json"), "utf8")) as OciBundle;
}

/** @param bundle of a container that runs */
export async function readLaunch(bundle: string): Promise<Launch> {
  const { process: started, linux, mounts } = await readBundle(bundle);
  const { memory = {}, cpu = {} } = linux.resources ?? {};
  const limit = (value = 0) => Math.max(0, value);
  return {
    args: started.args,
    env: Object.fromEntries((started.env ?? []).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)])),
    workDirectory: started.cwd,
    uid: started.user.uid,
    gid: started.user.gid,
    groups: (started.user.additionalGids ?? []).filter((group) => group !== started.user.gid),
    mounts: await Promise.all(
      mounts.filter(isBind).map(async ({ destination, source }): Promise<ExternalMount> => {
        const isDirectory = (await stat(source).catch(() => undefined))?.isDirectory() ?? false;
        return { destination, kind: isDirectory ? "directory" : "file" };
      }),
    ),
    limits: {
      memoryBytes: limit(memory.limit),
      cpuShares: limit(cpu.shares),
      cpuPeriodUs: limit(cpu.period),
      cpuQuotaUs: limit(cpu.quota),
    },
  };
}

/** Whether a mount shows something of the node's. */
export const isBind = ({ type, source, options = [] }: OciBundle["mounts"][number]) =>
  (type === "bind" || options.includes("bind") || options.includes("rbind")) && path.isAbsolute(source);

/**
 * Makes a bundle fit for a restore, while the shim waits. CRIU 4.2 binds a source that is a symbolic link as the link
 * itself, and then fails; `create` would follow it. And it wants each external mount of the dump: what another engine had
 * mounted there of its own accord, and this one hasn't, is empty here.
 * @param dumped external mounts of the container that was dumped
 */
export async function prepareBundle(bundle: string, dumped: readonly ExternalMount[]): Promise<OciBundle> {
  const oci = await readBundle(bundle);
  const before = JSON.stringify(oci);
  // runc would take it for CRIU's configuration, which may name programs to run.
  if (oci.annotations) for (const name of Object.keys(oci.annotations)) if (name.startsWith("org.criu.")) delete oci.annotations[name];
  const binds = oci.mounts.filter(isBind);
  for (const mount of binds) mount.source = await realpath(mount.source);
  const there = new Set(binds.map(({ destination }) => destination));
  for (const { destination, kind } of dumped.filter((mount) => !there.has(mount.destination))) {
    const source = await makeEmpty(bundle, { name: String(oci.mounts.length), kind });
    oci.mounts.push({ type: "bind", destination, source, options: ["rbind", "rprivate"] });
  }
  if (JSON.stringify(oci) !== before) await writeFile(path.join(bundle, "config.json"), JSON.stringify(oci));
  return oci;
}

/** Sets an annotation of a bundle, or takes it away. The engine may read the bundle meanwhile. */
export async function annotate(bundle: string, name: string, value: string | undefined): Promise<void> {
  const { annotations, ...oci } = await readBundle(bundle);
  const file = path.join(bundle, "config.json");
  await writeFile(`${file}.ums`, JSON.stringify({ ...oci, annotations: { ...annotations, [name]: value } }), {
    mode: (await stat(file)).mode,
  });
  await rename(`${file}.ums`, file);
}

/** In the bundle, so that it goes when the engine removes the container. */
async function makeEmpty(bundle: string, { name, kind }: { name: string; kind: ExternalMount["kind"] }): Promise<string> {
  const directory = path.join(await realpath(bundle), "ums-mounts");
  await mkdir(directory, { recursive: true, mode: 0o755 });
  const place = path.join(directory, name);
  if (kind === "directory") await mkdir(place, { recursive: true });
  else await writeFile(place, "");
  // The container's users look at it, whatever umask this process has.
  await chmod(place, kind === "directory" ? 0o755 : 0o644);
  return place;
}

/**
 * An overlay that is mounted keeps what it has looked up, and doesn't see a file that its upper directory has got since
 * (Documentation/filesystems/overlayfs.rst, “Changes to underlying filesystems”). A remount drops what it keeps
 * (shrink_dcache_sb of reconfigure_super).
 */
export async function forgetCachedFiles(root: string): Promise<void> {
  await execa("mount", ["--options", "remount", root], {
    stdin: "ignore",
    timeout: 10_000,
    // By the new API of mounts libmount hands over every option again, and overlayfs refuses to be told any (util-linux 2.41).
    env: { LIBMOUNT_FORCE_MOUNT2: "always" },
  });
}
