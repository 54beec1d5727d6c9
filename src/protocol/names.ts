/** What the names that cross UMS's borders look like; apart from the schemas, so that the CLI need not load those. */

/** Names that Podman accepts: nothing that a shell or a path would read otherwise. */
export const serviceNamePattern = "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$";
export const siteNamePattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
export const podNamePattern = "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$";
export const namespacePattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
export const migrationIdPattern = "^[a-z0-9]{8,32}$";
/** `host:port`, where an IPv6 address stands in brackets. */
export const addressPattern = "^([a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?|\\[[0-9a-fA-F:.]{2,45}\\]):[0-9]{1,5}$";

/** Below it lie the snapshots of pods, on their nodes; the original's place. */
export const snapshotRoot = "/var/lib/kubelet/migration";
/** In it: the dumps of pods that had no other copy left. */
export const rescuedRoot = `${snapshotRoot}/ums-rescued`;
/** No name in it begins with a dot, so none leads back, and none is that of a snapshot which is still being written. */
export const snapshotPathPattern = `^${snapshotRoot}(/[a-zA-Z0-9][a-zA-Z0-9._-]{0,239}){1,4}$`;
