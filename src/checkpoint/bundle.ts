/** The OCI bundle that an engine has made for a container which is about to be restored. */
import { readFile, realpath, writeFile } from "node:fs/promises";
import path from "node:path";
import { execa } from "execa";

/** The parts of an OCI configuration that UMS reads (opencontainers/runtime-spec, config.md). */
export type OciBundle = {
  root: { path: string };
  annotations?: Record<string, string>;
  linux: { namespaces: { type: string; path?: string }[]; cgroupsPath?: string };
  mounts: { type?: string; destination: string; source: string }[];
};

export async function readBundle(bundle: string): Promise<OciBundle> {
  return JSON.parse(await readFile(path.join(bundle, "config.json"), "utf8")) as OciBundle;
}

/** CRIU 4.2 binds a source that is a symbolic link as the link itself, and then fails; `create` would follow it. */
export async function resolveLinks(bundle: string): Promise<OciBundle> {
  const oci = await readBundle(bundle);
  let resolved = false;
  for (const mount of oci.mounts.filter(({ type, source }) => type === "bind" && path.isAbsolute(source))) {
    const target = await realpath(mount.source);
    if (target === mount.source) continue;
    mount.source = target;
    resolved = true;
  }
  if (resolved) await writeFile(path.join(bundle, "config.json"), JSON.stringify(oci));
  return oci;
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
