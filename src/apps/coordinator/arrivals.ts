/** What the destination's half remembers of each migration, in `Migration` objects of role Destination. */
import type { ArrivalFacts, ArrivalRecord, ArrivalRecords } from "../../approaches/orchestrator-level/incoming.ts";
import { rememberedOfPeer } from "../../approaches/peer-bounds.ts";
import { UmsError } from "../../errors.ts";
import { sharedLook } from "../../shared-look.ts";
import { type Cluster, ClusterError, type PatchOperation } from "../../platforms/kubernetes/client.ts";
import {
  arrivalName,
  expectOwnPod,
  isOwnPod,
  isSource,
  migrationFinalizer,
  type MigrationObject,
  migrations,
} from "../../platforms/kubernetes/migration.ts";

/** On each object of an arrival: the migration's id. */
const arrivalLabel = "ums.dev/arrival";

/** No request comes so long after the end: then a record has done its work. */
const rememberedMs = 24 * 3_600_000;

const factsOf = ({ status }: MigrationObject) => (status?.facts ?? {}) as ArrivalFacts & { seenAt?: string; acknowledged?: boolean };
const outcomeOf = ({ status }: MigrationObject) =>
  status?.endedAt === undefined ? undefined : status.phase === "Succeeded" ? "committed" : "gone";
/** Ended, but its pod may still have to be looked for. */
const isUnswept = (object: MigrationObject) => outcomeOf(object) === "gone" && factsOf(object).making === true && !factsOf(object).swept;

/** @returns of each site, the oldest records that came to nothing, beyond the newest `keep` */
export function beyondMemory(records: readonly MigrationObject[], keep = rememberedOfPeer): MigrationObject[] {
  const forgettable = records.filter((each) => outcomeOf(each) === "gone" && !isUnswept(each));
  const endedAt = ({ status }: MigrationObject) => Date.parse(status?.endedAt ?? "");
  return [...Map.groupBy(forgettable, ({ spec }) => spec.peer).values()].flatMap((ofPeer) =>
    ofPeer.toSorted((one, other) => endedAt(other) - endedAt(one)).slice(keep),
  );
}

export function createArrivalRecords(cluster: Cluster, { siteName }: { siteName: string }): ArrivalRecords {
  /** Where each id's object is: asking for one by its name is quicker than looking for it, and a commit has clients waiting. */
  const namespaces = new Map<string, string>();

  async function object(id: string): Promise<MigrationObject | undefined> {
    const namespace = namespaces.get(id);
    const known = namespace === undefined ? undefined : await cluster.get(migrations, arrivalName(id), { namespace });
    if (known && isRecord(known)) return known;
    const { items } = await cluster.list(migrations, { namespace: undefined, labelSelector: `${arrivalLabel}=${id}` });
    const found = items.find((each) => isRecord(each) && each.spec.id === id);
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
          metadata: { name: arrivalName(id), namespace, labels: { [arrivalLabel]: id }, finalizers: [migrationFinalizer] },
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
  /** Anybody may label a Migration; only the coordinator's account can make one of this role (rbac.yml). */
  const isRecord = (object: MigrationObject) => !isSource(object) && object.metadata.name === arrivalName(object.spec.id ?? "");
  const allRecords = async () => {
    const { items } = await cluster.list(migrations, { namespace: undefined, labelSelector: arrivalLabel });
    return items.filter(isRecord);
  };
  const isAboutItsPod = (object: MigrationObject) => {
    const { need } = factsOf(object);
    return need === undefined || isOwnPod(object, need.pod.metadata);
  };
  const endedBefore = ({ status }: MigrationObject, ms: number) => Date.now() - Date.parse(status?.endedAt ?? "") > ms;

  /** @throws UmsError JOURNAL_CONTRADICTS */
  function show(found: MigrationObject): ArrivalRecord {
    const { metadata, spec, status = {} } = found;
    const { seenAt, ...facts } = factsOf(found);
    if (facts.need) expectOwnPod(found, facts.need.pod.metadata);
    const ended = outcomeOf(found);
    return {
      id: spec.id ?? "",
      peer: spec.peer ?? "",
      facts,
      deleted: metadata.deletionTimestamp !== undefined,
      seenAt: Date.parse(status.endedAt ?? seenAt ?? metadata.creationTimestamp ?? new Date().toISOString()),
      ...(ended === undefined ? {} : { ended }),
    };
  }

  /** Writes only as long as the verdict is open. @returns whether it was */
  async function whileOpen(id: string, facts: object): Promise<boolean> {
    const namespace = namespaces.get(id) ?? (await mustExist(id)).metadata.namespace;
    const patch: PatchOperation[] = [
      { op: "test", path: "/status/facts/verdict", value: "open" },
      ...Object.entries({ ...facts, seenAt: new Date().toISOString() }).map(([fact, value]): PatchOperation => ({
        op: "add",
        path: `/status/facts/${fact}`,
        value,
      })),
    ];
    try {
      await cluster.patch(migrations, arrivalName(id), patch, { namespace, subresource: "status" });
      return true;
    } catch (cause) {
      // A failed test is told as an invalid patch.
      if (cause instanceof ClusterError && ["CLUSTER_REFUSED", "OBJECT_GONE"].includes(cause.code)) return false;
      throw cause;
    }
  }

  /** From then on the object is history, which anybody may delete: a source that has not heard of the commit would go on with its copy. */
  const isHistory = (object: MigrationObject) =>
    object.status?.endedAt !== undefined &&
    (object.status.phase !== "Succeeded" || factsOf(object).acknowledged === true || endedBefore(object, rememberedMs));
  const letGo = ({ metadata }: MigrationObject) =>
    cluster.patch(migrations, metadata.name ?? "", { metadata: { finalizers: null } }, { namespace: metadata.namespace });

  const patchStatus = ({ metadata }: MigrationObject, status: object) =>
    cluster.patch<MigrationObject>(migrations, metadata.name ?? "", { status }, { namespace: metadata.namespace, subresource: "status" });

  const remove = async ({ metadata, spec }: MigrationObject) => {
    await cluster.delete(migrations, metadata.name ?? "", { namespace: metadata.namespace });
    namespaces.delete(spec.id ?? "");
  };
  /** What fails here is done at the next end. */
  const forget = sharedLook(async () => {
    for (const record of beyondMemory(await allRecords().catch(() => []))) {
      if (record.metadata.finalizers?.length) await letGo(record).catch(() => undefined);
      await remove(record).catch(() => undefined);
    }
  });

  return {
    async find(id): Promise<ArrivalRecord | undefined> {
      const found = await object(id);
      return found && show(found);
    },
    async create({ id, peer, need }) {
      const { name: pod, namespace } = need.pod.metadata;
      const made = await make({ id, peer, namespace, pod });
      await patchStatus(made, {
        id,
        phase: "Preflight",
        startedAt: new Date().toISOString(),
        memoryBytes: need.memoryBytes,
        facts: { need, verdict: "open", seenAt: new Date().toISOString() },
      });
    },
    open: async () =>
      (await allRecords()).filter((each) => outcomeOf(each) === undefined).map(({ spec: { id = "", peer = "" } }) => ({ id, peer })),
    async refuse(id, peer) {
      const made = await make({ id, peer, namespace: cluster.namespace, pod: "none" });
      await patchStatus(made, { id, phase: "RolledBack", endedAt: new Date().toISOString() });
      await letGo(made);
      await forget();
    },
    async update(id, facts) {
      if (!(await whileOpen(id, facts))) throw new UmsError("COPY_IS_GONE", `Migration ${id} is not open here any more.`);
    },
    async decide(id, verdict) {
      for (let tries = 0; tries < 5; tries++) {
        if (await whileOpen(id, { verdict })) return verdict;
        const found = await mustExist(id);
        const { verdict: before } = factsOf(found);
        if (before === "committed" || before === "abandoned") return before;
        // A crash between the making of the object and its first status: nobody can have begun anything.
        if (before === undefined) await patchStatus(found, { facts: { verdict: "open" } });
      }
      throw new UmsError("PEER_FAILED", `The record of migration ${id} can't be written.`);
    },
    async end(id, outcome) {
      const phase = outcome === "committed" ? "Succeeded" : "RolledBack";
      const ended = await patchStatus(await mustExist(id), { phase, endedAt: new Date().toISOString() });
      namespaces.delete(id);
      // Not while clients wait; what fails here is done with the unfinished ones.
      if (isHistory(ended)) void letGo(ended).catch(() => undefined);
      if (outcome === "gone") await forget();
    },
    async acknowledge(id) {
      const found = await object(id);
      const told = found && (await patchStatus(found, { facts: { acknowledged: true } }));
      namespaces.delete(id);
      if (told && isHistory(told)) await letGo(told);
    },
    async unfinished() {
      const items = (await allRecords()).filter(isAboutItsPod);
      // A crash may have come between the end and this.
      for (const history of items.filter((each) => isHistory(each) && each.metadata.finalizers?.length)) await letGo(history);
      // Those that only refuse their id.
      for (const refused of items.filter((each) => factsOf(each).need === undefined && endedBefore(each, rememberedMs)))
        await remove(refused);
      return items.filter((each) => outcomeOf(each) === undefined || isUnswept(each)).map(show);
    },
    async swept(id) {
      await patchStatus(await mustExist(id), { facts: { swept: true } });
    },
  };
}
