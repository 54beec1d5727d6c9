/** The Migrations that are made of a Podmigration: their ids, their objects, and what their ends mean for it. */
import { createHash } from "node:crypto";
import type { Cluster } from "../../../platforms/kubernetes/client.ts";
import { type MigrationObject, migrations, type MigrationSpec } from "../../../platforms/kubernetes/migration.ts";
import { type Podmigration, podmigrations, type PodmigrationStatus } from "../../../platforms/kubernetes/podmigration.ts";
import { makeMigrationOnce } from "../make-migration.ts";

/** On a Migration that was made for a Podmigration: that one's uid. */
export const ownerLabel = "ums.dev/podmigration";
/** On the same: how many were made for it; one where it is missing. */
const countAnnotation = "ums.dev/replicas";

/** The same for the same object, so that a successor finds what was begun. A version 4 UUID begins with random digits. */
export function idOf({ metadata: { uid = "" } }: Pick<Podmigration, "metadata">): string {
  return uid.replaceAll("-", "").slice(0, 12);
}

/** Ids of the Migrations of a restore, each as unique as the object's. */
export function idsOf(object: Pick<Podmigration, "metadata">, count: number): string[] {
  return Array.from({ length: count }, (_, at) =>
    at === 0 ? idOf(object) : createHash("sha256").update(`${object.metadata.uid} ${at}`).digest("hex").slice(0, 12),
  );
}

/** Makes a Migration, unless an earlier instance has made it. @param count of those that are made for the same object */
export async function makeMigration(
  cluster: Cluster,
  { metadata: { namespace = "default", name = "", uid = "" } }: Podmigration,
  { count, ...spec }: Omit<MigrationSpec, "role" | "id"> & { id: string; count: number },
): Promise<void> {
  await makeMigrationOnce(cluster, spec, {
    namespace,
    labels: { [ownerLabel]: uid },
    annotations: { [countAnnotation]: String(count) },
    // Who deletes the request cancels the migration, or ends the forwarding that it left.
    ownerReferences: [{ apiVersion: podmigrations.apiVersion, kind: podmigrations.kind, name, uid }],
  });
}

/** Those that there are. */
export async function madeFor(
  cluster: Cluster,
  { metadata: { namespace = "default", uid = "" } }: Pick<Podmigration, "metadata">,
  signal: AbortSignal,
): Promise<MigrationObject[]> {
  return (await cluster.list(migrations, { namespace, labelSelector: `${ownerLabel}=${uid}`, signal })).items;
}

/** What a Podmigration says once its Migrations have ended, or one of them has failed; undefined before. */
export function endOf(made: readonly MigrationObject[]): PodmigrationStatus | undefined {
  const count = Number(made[0]?.metadata.annotations?.[countAnnotation] ?? 1);
  const sorted = made.toSorted((one, other) => podIn(one).localeCompare(podIn(other), "en", { numeric: true }));
  const ended = sorted.filter(({ status }) => status?.endedAt !== undefined);
  const succeeded = ended.filter(({ status }) => status?.phase === "Succeeded");
  const failed = ended.filter(({ status }) => status?.phase !== "Succeeded");
  if (failed.length === 0 && succeeded.length < count) return undefined;
  // That of a move which failed runs where it was; a restore has made what it has made.
  const active = failed.length > 0 && count === 1 && !failed[0]?.spec.snapshot ? failed.map(({ spec }) => spec.pod) : succeeded.map(podIn);
  const messages = (failed.length > 0 ? failed : succeeded).map((migration) => [
    ...(failed.length > 0 && count > 1 ? [podIn(migration)] : []),
    ...[migration.status?.error?.code, migration.status?.message].filter(Boolean),
  ]);
  return {
    state: failed.length > 0 ? "Failed" : "Completed",
    activePod: active.join(","),
    currentRevision: sorted.map(({ metadata }) => metadata.name).join(","),
    message: messages.map((parts) => parts.join(": ")).join("; "),
  };
}

/** The pod that it makes. */
const podIn = ({ spec }: MigrationObject) => spec.rename ?? spec.pod;
