/** Carries out the original's Podmigration objects: a live migration to another site becomes a Migration, whose end it mirrors. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { UmsError } from "../../errors.ts";
import { type Cluster, ClusterError } from "../../platforms/kubernetes/client.ts";
import type { Interfaces } from "../../platforms/kubernetes/interfaces.ts";
import { migrationName, type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";
import { pods } from "../../platforms/kubernetes/kinds.ts";
import { type Podmigration, podmigrations, type PodmigrationStatus } from "../../platforms/kubernetes/podmigration.ts";
import type { Trust } from "../../trust/trust.ts";

type Parts = Readonly<{ cluster: Cluster; trust: Pick<Trust, "peers" | "siteName">; interfaces: Pick<Interfaces, "all">; log: Logger }>;

/** On a Migration that was made for a Podmigration: that one's name. */
const ownerLabel = "ums.dev/podmigration";
const retryMs = 1_000;

/** Works until the signal aborts. What an earlier instance began is found again by the Migration's name. */
export async function answerPodmigrations(parts: Parts, { signal }: { signal: AbortSignal }): Promise<void> {
  const { cluster, log } = parts;
  const begun = new Set<string>();
  const onTrouble = (cause: unknown) => {
    // Without ssu-crd.yml nobody can ask for one.
    const missing = cause instanceof ClusterError && cause.code === "OBJECT_GONE";
    log[missing ? "debug" : "warn"]({ cause }, "the Podmigrations can't be watched");
  };
  const watched = { namespace: undefined, signal, onTrouble };

  async function begin(object: Podmigration): Promise<void> {
    const { uid = "", name, deletionTimestamp } = object.metadata;
    const { state } = object.status ?? {};
    if (begun.has(uid) || deletionTimestamp !== undefined || (state !== undefined && state !== "Migrating")) return;
    begun.add(uid);
    try {
      await untilAnswered(() => start(parts, object), signal);
    } catch (cause) {
      log.warn({ podmigration: name, cause }, "a Podmigration can't be carried out");
      const error = cause instanceof UmsError ? cause : new UmsError("INTERNAL", "Something failed that UMS did not foresee.", { cause });
      await untilAnswered(() => fail(cluster, object, error), signal);
    }
  }
  const passing = (cause: unknown) => signal.aborted || log.warn({ cause }, "a Podmigration's status can't be written");

  const requests = (async () => {
    for await (const { type, object } of cluster.watch(podmigrations, watched)) if (type === "present") void begin(object).catch(passing);
  })();
  const ends = (async () => {
    for await (const { type, object } of cluster.watch(migrations, { ...watched, labelSelector: ownerLabel }))
      if (type === "present") void untilAnswered(() => mirror(cluster, object), signal).catch(passing);
  })();
  await Promise.all([requests, ends]);
}

async function untilAnswered(act: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      return await act();
    } catch (cause) {
      if (!(cause instanceof ClusterError && cause.code === "API_SERVER_UNREACHABLE")) throw cause;
      await sleep(retryMs, undefined, { signal });
    }
  }
}

/** @throws UmsError for which it can't be carried out */
async function start({ cluster, trust, interfaces }: Parts, { metadata, spec, status }: Podmigration): Promise<void> {
  const { namespace = "default", name = "", uid = "" } = metadata;
  const { action, sourcePod, destHost } = spec;
  if (action !== "live-migration")
    throw new UmsError("BAD_REQUEST", `The action ${action} is not there yet: UMS writes no checkpoints to a node that outlive a move.`);
  if (sourcePod === undefined || destHost === undefined)
    throw new UmsError("BAD_REQUEST", "A live-migration needs sourcePod and destHost.");
  const id = migrationId(uid);
  const site = siteOf(destHost, trust);
  const isNode = interfaces.all().some(({ node }) => node === destHost);
  if (site === undefined && !isNode)
    throw new UmsError("SITE_NOT_FOUND", `${destHost} is no node with UMS's interface here, and no paired site has that name or address.`);
  const nodeName = (await cluster.get(pods, sourcePod, { namespace }))?.spec?.nodeName;
  if (site === undefined && nodeName === destHost) throw new UmsError("BAD_REQUEST", `Pod ${sourcePod} runs on node ${destHost} already.`);
  const destination =
    site === undefined ? { destination: trust.siteName, node: destHost, rename: copyName(sourcePod, id) } : { destination: site };
  const migration: MigrationObject = {
    apiVersion: migrations.apiVersion,
    kind: migrations.kind,
    metadata: {
      name: migrationName(id),
      namespace,
      labels: { [ownerLabel]: uid },
      // Who deletes the request cancels the migration, or ends the forwarding that it left.
      ownerReferences: [{ apiVersion: podmigrations.apiVersion, kind: podmigrations.kind, name, uid }],
    },
    spec: { role: "Source", pod: sourcePod, ...destination, id },
  };
  // Before the Migration, whose end must not be overwritten by this.
  if (status?.state === undefined)
    await say(cluster, { namespace, name }, { state: "Migrating", activePod: sourcePod, currentRevision: migrationName(id) });
  try {
    await cluster.create(migrations, migration, { namespace });
  } catch (cause) {
    if (!(cause instanceof ClusterError && cause.code === "OBJECT_EXISTS")) throw cause;
  }
}

/** The site that `destHost` names: by its name, by an address, or by an address' host, where that is one site's alone. */
function siteOf(destHost: string, trust: Pick<Trust, "peers">): string | undefined {
  const wanted = destHost.toLowerCase();
  const peers = trust.peers();
  const exact = peers.find(({ name, addresses }) => name === wanted || addresses.some((address) => address.toLowerCase() === wanted));
  if (exact) return exact.name;
  const onHost = peers.filter(({ addresses }) => addresses.some((address) => address.toLowerCase().replace(/:\d+$/, "") === wanted));
  return onHost.length === 1 ? onHost[0]?.name : undefined;
}

/** The same for the same object, so that a successor finds what was begun. A version 4 UUID begins with random digits. */
function migrationId(uid: string): string {
  return uid.replaceAll("-", "").slice(0, 12);
}

/** A namespace has no room for two pods of one name; the original's copies were called like that, too. */
function copyName(pod: string, id: string): string {
  return `${pod.replace(/-migration-[0-9a-f]{4}$/, "")}-migration-${id.slice(0, 4)}`;
}

async function mirror(cluster: Cluster, { metadata, spec, status = {} }: MigrationObject): Promise<void> {
  const owner = metadata.ownerReferences?.find(({ kind }) => kind === podmigrations.kind);
  if (!owner || status.endedAt === undefined) return;
  const place = { namespace: metadata.namespace ?? "default", name: owner.name };
  const state = status.phase === "Succeeded" ? "Completed" : "Failed";
  const message = [status.error?.code, status.message].filter(Boolean).join(": ");
  const activePod = (state === "Completed" && spec.rename) || spec.pod;
  await say(cluster, place, { state, activePod, currentRevision: metadata.name ?? "", message }).catch((cause: unknown) => {
    if (!(cause instanceof ClusterError && cause.code === "OBJECT_GONE")) throw cause;
  });
}

const fail = (cluster: Cluster, { metadata: { namespace = "default", name = "" } }: Podmigration, { code, message, cure }: UmsError) =>
  say(cluster, { namespace, name }, { state: "Failed", message: `${code}: ${message} ${cure}` });

async function say(cluster: Cluster, { namespace, name }: { namespace: string; name: string }, status: PodmigrationStatus): Promise<void> {
  await cluster.patch(podmigrations, name, { status }, { namespace, subresource: "status" });
}
