/** What the destination's half remembers of each migration, in `Migration` objects of role Destination. */
import type { ArrivalFacts, ArrivalRecord, ArrivalRecords } from "../../approaches/orchestrator-level/incoming.ts";
import { UmsError } from "../../errors.ts";
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import { migrationName, type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";

export function createArrivalRecords(cluster: Cluster, { siteName }: { siteName: string }): ArrivalRecords {
  /** Where each id's object is: asking for one by its name is quicker than looking for it, and a commit has clients waiting. */
  const namespaces = new Map<string, string>();

  async function object(id: string): Promise<MigrationObject | undefined> {
    const namespace = namespaces.get(id);
    const known = namespace === undefined ? undefined : await cluster.get(migrations, migrationName(id), { namespace });
    if (known) return known;
    const { items } = await cluster.list(migrations, { namespace: undefined, labelSelector: `ums.dev/arrival=${id}` });
    const [found] = items;
    if (found?.metadata.namespace === undefined) namespaces.delete(id);
    else namespaces.set(id, found.metadata.namespace);
    return found;
  }
  const mustExist = async (id: string) => {
    const found = await object(id);
    if (!found) throw new UmsError("COPY_IS_GONE", `This site has no copy for migration ${id}.`);
    return found;
  };
  const make = async ({ id, peer, namespace, pod }: { id: string; peer: string; namespace: string; pod: string }) => {
    try {
      return await cluster.create(
        migrations,
        {
          apiVersion: migrations.apiVersion,
          kind: migrations.kind,
          metadata: { name: migrationName(id), namespace, labels: { "ums.dev/arrival": id } },
          spec: { role: "Destination", pod, destination: siteName, peer, id },
        },
        { namespace },
      );
    } catch (cause) {
      if (cause instanceof ClusterError && cause.code === "OBJECT_EXISTS")
        throw new UmsError("COPY_IS_GONE", `Migration ${id} has been here before.`, { cause });
      throw cause;
    }
  };
  const patchStatus = ({ metadata }: MigrationObject, status: object) =>
    cluster.patch(migrations, metadata.name ?? "", { status }, { namespace: metadata.namespace, subresource: "status" });

  return {
    async find(id): Promise<ArrivalRecord | undefined> {
      const found = await object(id);
      if (!found) return undefined;
      const facts = (found.status?.facts ?? {}) as unknown as ArrivalFacts;
      const ended = found.status?.endedAt === undefined ? undefined : found.status.phase === "Succeeded" ? "committed" : "gone";
      return { id, peer: found.spec.peer ?? "", facts, ...(ended === undefined ? {} : { ended }) };
    },
    async create({ id, peer, need }) {
      const { name: pod, namespace } = need.pod.metadata;
      const made = await make({ id, peer, namespace, pod });
      await patchStatus(made, {
        id,
        phase: "Preflight",
        startedAt: new Date().toISOString(),
        memoryBytes: need.memoryBytes,
        facts: { need },
      });
    },
    async refuse(id, peer) {
      const made = await make({ id, peer, namespace: cluster.namespace, pod: "none" });
      await patchStatus(made, { id, phase: "RolledBack", endedAt: new Date().toISOString() });
    },
    async update(id, facts) {
      await patchStatus(await mustExist(id), { facts });
    },
    async end(id, outcome) {
      const phase = outcome === "committed" ? "Succeeded" : "RolledBack";
      await patchStatus(await mustExist(id), { phase, endedAt: new Date().toISOString() });
      namespaces.delete(id);
    },
  };
}
