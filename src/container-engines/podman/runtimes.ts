/** OCI runtimes by the names under which Podman knows them (`[engine.runtimes]` of containers.conf). */

/** The shim's. */
export const shimRuntime = "ums";

/** Podman names no root of its own when it calls a runtime as root, so each has its usual one. */
const roots: Readonly<Record<string, string>> = { runc: "/run/runc", crun: "/run/crun", [shimRuntime]: "/run/runc" };

/** Those whose containers can be dumped. */
export const dumpableRuntimes: readonly string[] = Object.keys(roots);

/** @returns where this runtime has the state of its containers; undefined where it is none whose state UMS can read */
export const stateRootOf = (runtime: string): string | undefined => roots[runtime];
