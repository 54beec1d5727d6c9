/** Migrations that the operator itself asks for. */
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import { migrationName, type MigrationObject, migrations, type MigrationSpec } from "../../platforms/kubernetes/migration.ts";

/** Makes a Migration, unless it is there already: an earlier instance may have made it. */
export async function makeMigrationOnce(
  cluster: Pick<Cluster, "create">,
  spec: Omit<MigrationSpec, "role"> & { id: string },
  metadata: Omit<MigrationObject["metadata"], "name"> & { namespace: string },
): Promise<void> {
  const object: MigrationObject = {
    apiVersion: migrations.apiVersion,
    kind: migrations.kind,
    metadata: { ...metadata, name: migrationName(spec.id) },
    spec: { role: "Source", ...spec },
  };
  try {
    await cluster.create(migrations, object, { namespace: metadata.namespace });
  } catch (cause) {
    if (!(cause instanceof ClusterError && cause.code === "OBJECT_EXISTS")) throw cause;
  }
}
