/** Events with the original's type and reasons: what `kubectl describe` tells of a migration, at its own object and at its pod. */
import type { Cluster } from "./client.ts";
import { events, pods } from "./kinds.ts";
import { type MigrationObject, migrations } from "./migration.ts";

export async function tell(
  cluster: Cluster,
  { metadata, spec: { pod } }: Pick<MigrationObject, "metadata" | "spec">,
  { reason, message }: { reason: "ready" | "error"; message: string },
): Promise<void> {
  const { namespace = "default", name = "", uid } = metadata;
  const uidOfPod = (await cluster.get(pods, pod, { namespace }))?.metadata?.uid;
  const now = new Date().toISOString();
  const involved = [
    { apiVersion: migrations.apiVersion, kind: migrations.kind, name, uid },
    { apiVersion: pods.apiVersion, kind: pods.kind, name: pod, uid: uidOfPod },
  ];
  for (const { uid: known, ...object } of involved) {
    await cluster.create(
      events,
      {
        apiVersion: "v1",
        kind: "Event",
        metadata: { generateName: `${object.name}.`, namespace },
        involvedObject: { ...object, namespace, ...(known === undefined ? {} : { uid: known }) },
        type: "migration",
        reason,
        message,
        firstTimestamp: now,
        lastTimestamp: now,
        count: 1,
        source: { component: "ums" },
      },
      { namespace },
    );
  }
}
