/** OCI runtimes by the names under which Podman knows them (`[engine.runtimes]` of containers.conf). */

/** The shim's. */
export const shimRuntime = "ums";

/** Those whose containers can be dumped. */
export const dumpableRuntimes: readonly string[] = ["runc", shimRuntime];

/** Podman names no root of its own when it calls a runtime as root, so each has its usual one. */
const roots: Readonly<Record<string, string>> = { runc: "/run/runc", [shimRuntime]: "/run/runc" };

/** @returns where runc has the state of this runtime's containers; undefined where they are not runc's */
export const runcRootOf = (runtime: string): string | undefined => roots[runtime];
