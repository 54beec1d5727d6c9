/** `restore`: pods are made of a snapshot, each by a Migration of its own. */
import { findSnapshots, type Found } from "../../../approaches/orchestrator-level/checkpoint.ts";
import { copyName, differenceFrom, podOf, wantedLabels } from "../../../approaches/orchestrator-level/snapshot.ts";
import { UmsError } from "../../../errors.ts";
import { migrationName } from "../../../platforms/kubernetes/migration.ts";
import type { Podmigration } from "../../../platforms/kubernetes/podmigration.ts";
import type { PodmigrationParts, Work } from "./action.ts";
import { placeOf } from "./checkpoint.ts";
import { idsOf, madeFor, makeMigration } from "./migrations.ts";

const mostReplicas = 100;
/** Digits of the object's uid in the names of its pods. */
const markLength = 8;

/** @throws UmsError for which it can't be carried out */
export async function beginRestore(
  { cluster, trust, interfaces }: PodmigrationParts,
  object: Podmigration,
  { begun, signal }: Work,
): Promise<undefined> {
  const { namespace = "default" } = object.metadata;
  const { snapshotPath, sourcePod, destHost, replicas = 1, selector, template = {} } = object.spec;
  if (snapshotPath === undefined) throw new UmsError("BAD_REQUEST", "A restore needs snapshotPath.");
  if (replicas < 1 || replicas > mostReplicas)
    throw new UmsError("BAD_REQUEST", `A restore makes 1 to ${mostReplicas} pods, not ${replicas} (replicas).`);
  // Made already by an earlier instance: the snapshot may have gone since.
  if ((await madeFor(cluster, object, signal)).length === replicas) return;
  const nodes = interfaces.all();
  if (destHost !== undefined && !nodes.some(({ node }) => node === destHost))
    throw new UmsError("BAD_REQUEST", `A restore's destHost is a node of this cluster with UMS's interface, and ${destHost} is none.`);
  const place = placeOf(snapshotPath);
  // Whose memory it is decides who may have it.
  const ours = (await findSnapshots(nodes, place, signal)).filter(({ snapshot }) => podOf(snapshot).metadata?.namespace === namespace);
  const { node, snapshot } = choose(ours, { place, namespace, destHost });
  const pod = podOf(snapshot);
  const difference = differenceFrom(pod, template);
  if (difference !== undefined) throw new UmsError("SNAPSHOT_DIFFERS", difference);
  if (sourcePod !== undefined && sourcePod !== pod.metadata?.name)
    throw new UmsError("SNAPSHOT_DIFFERS", `The snapshot is of pod ${pod.metadata?.name}, not of ${sourcePod}.`);
  const labels = wantedLabels(pod, { selector, template });

  const ids = idsOf(object, replicas);
  await begun({ currentRevision: ids.map(migrationName).join(",") });
  const mark = ids[0]?.slice(0, markLength) ?? "";
  for (const [at, id] of ids.entries()) {
    const name = copyName(pod.metadata?.name ?? "", replicas === 1 ? mark : `${mark}-${at}`);
    await makeMigration(cluster, object, {
      id,
      pod: name,
      snapshot: { node: node.node, path: place, labels },
      destination: trust.siteName,
      ...(destHost === undefined ? {} : { node: destHost }),
      count: replicas,
    });
  }
}

/** @throws UmsError SNAPSHOT_NOT_FOUND, BAD_REQUEST */
function choose(
  found: readonly Found[],
  { place, namespace, destHost }: { place: string; namespace: string; destHost: string | undefined },
): Found {
  const [only, ...others] = found;
  if (!only) throw new UmsError("SNAPSHOT_NOT_FOUND", `No node has a snapshot ${place} of a pod of namespace ${namespace}.`);
  const named = found.find(({ node }) => node.node === destHost);
  if (named) return named;
  if (others.length === 0) return only;
  const names = found.map(({ node }) => node.node).join(", ");
  throw new UmsError("BAD_REQUEST", `Several nodes have a snapshot ${place} (${names}): name one of them as destHost.`);
}
