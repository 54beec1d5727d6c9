/**
 * Carries out the original's Podmigration objects. A live-migration becomes a Migration, a restore one for each replica, and their
 * ends are mirrored; a checkpoint is one request to the pod's node.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../../errors.ts";
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import { type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";
import { type Podmigration, podmigrations, type PodmigrationStatus, statesUnderWay } from "../../platforms/kubernetes/podmigration.ts";
import type { Action, PodmigrationParts, Work } from "./podmigration/action.ts";
import { beginLiveMigration } from "./podmigration/live-migration.ts";
import { takePodCheckpoint } from "./podmigration/checkpoint.ts";
import { beginRestore } from "./podmigration/restore.ts";
import { endOf, madeFor, ownerLabel } from "./podmigration/migrations.ts";

const actions: Readonly<Record<Podmigration["spec"]["action"], Action>> = {
  checkpoint: takePodCheckpoint,
  restore: beginRestore,
  "live-migration": beginLiveMigration,
};
const retryMs = 1_000;

/** Works until the signal aborts. What an earlier instance began is found again by its id, which follows from the object's uid. */
export async function answerPodmigrations(parts: PodmigrationParts, { signal: stopping }: { signal: AbortSignal }): Promise<void> {
  const { cluster, log } = parts;
  /** What this instance has begun, and what gives it up. */
  const begun = new Map<string, AbortController>();
  const onTrouble = (cause: unknown) => {
    // Without ssu-crd.yml nobody can ask for one.
    const missing = cause instanceof ClusterError && cause.code === "OBJECT_GONE";
    log[missing ? "debug" : "warn"]({ cause }, "the Podmigrations can't be watched");
  };
  const watched = { namespace: undefined, signal: stopping, onTrouble };

  async function begin(object: Podmigration): Promise<void> {
    const { uid = "", name, deletionTimestamp } = object.metadata;
    const { state } = object.status ?? {};
    const underWay = statesUnderWay[object.spec.action];
    if (begun.has(uid) || deletionTimestamp !== undefined || (state !== undefined && state !== underWay)) return;
    const deleted = new AbortController();
    begun.set(uid, deleted);
    const signal = AbortSignal.any([stopping, deleted.signal]);
    let isTold = state !== undefined;
    const work: Work = {
      signal,
      async begun(status) {
        if (!isTold) await say(cluster, object, { state: underWay, ...status });
        isTold = true;
      },
    };
    try {
      const end = await untilAnswered(() => actions[object.spec.action](parts, object, work), signal);
      if (end) await untilAnswered(() => say(cluster, object, end), signal);
    } catch (cause) {
      if (signal.aborted) return; // nobody waits for it, or a successor takes it up
      log.warn({ podmigration: name, cause }, "a Podmigration can't be carried out");
      const error = cause instanceof UmsError ? cause : new UmsError("INTERNAL", "Something failed that UMS did not foresee.", { cause });
      const message = `${error.code}: ${error.message} ${error.cure}`;
      await untilAnswered(() => say(cluster, object, { state: "Failed", message }), signal);
    }
  }
  const failing = (cause: unknown) => {
    if (!stopping.aborted) log.warn({ cause }, "a Podmigration's status can't be written");
  };

  const requests = (async () => {
    for await (const { type, object } of cluster.watch(podmigrations, watched)) {
      if (type === "present") void begin(object).catch(failing);
      else begun.get(object.metadata.uid ?? "")?.abort(new UmsError("CANCELLED", "The Podmigration was deleted."));
    }
  })();
  /** One after the other: what was read earlier must not be written later. */
  let turn = Promise.resolve();
  const ends = (async () => {
    for await (const { type, object } of cluster.watch(migrations, { ...watched, labelSelector: ownerLabel }))
      if (type === "present") turn = turn.then(() => untilAnswered(() => mirror(cluster, object, stopping), stopping)).catch(failing);
  })();
  await Promise.all([requests, ends]);
}

async function untilAnswered<T>(act: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (;;) {
    try {
      return await act();
    } catch (cause) {
      if (!(cause instanceof ClusterError && cause.code === "API_SERVER_UNREACHABLE")) throw cause;
      await sleep(retryMs, undefined, { signal });
    }
  }
}

/** Tells a Podmigration what has become of the Migrations that were made of it. */
async function mirror(cluster: Cluster, { metadata, status }: MigrationObject, signal: AbortSignal): Promise<void> {
  const owner = metadata.ownerReferences?.find(({ kind }) => kind === podmigrations.kind);
  if (!owner || status?.endedAt === undefined) return;
  const object = { metadata: { namespace: metadata.namespace ?? "default", name: owner.name, uid: owner.uid } };
  const end = endOf(await madeFor(cluster, object, signal));
  if (!end) return;
  await say(cluster, object, end).catch((cause: unknown) => {
    if (!(cause instanceof ClusterError && cause.code === "OBJECT_GONE")) throw cause;
  });
}

async function say(
  cluster: Cluster,
  { metadata: { namespace = "default", name = "" } }: Pick<Podmigration, "metadata">,
  status: PodmigrationStatus,
): Promise<void> {
  await cluster.patch(podmigrations, name, { status }, { namespace, subresource: "status" });
}
