/** A checkpoint, as the operator has it taken: the pod's object, and its node's interface. */
import { UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { pods } from "../../platforms/kubernetes/kinds.ts";
import { type SnapshotSummary, snapshotTransfers } from "../../protocol/snapshot.ts";
import type { NodeClient } from "./node/client.ts";
import type { Taken } from "./node/snapshots.ts";
import { podNeed } from "./pod-need.ts";
import { livenessBudgetMs, podReference, podRefusals } from "./pod.ts";

type CheckpointParts = Readonly<{
  cluster: Cluster;
  interfaces: Readonly<{
    /** @throws UmsError INTERFACE_MISSING */
    node: (name: string) => Promise<NodeClient>;
    all: () => readonly NodeClient[];
  }>;
  limits: Readonly<{ preflightMs: number; transferMs: number }>;
}>;

/** Where a snapshot is, and what of it is told. */
export type Found = Readonly<{ node: NodeClient; snapshot: SnapshotSummary }>;

/**
 * The nodes on which a snapshot lies at this path.
 * @throws what the interface met that did not answer, where none of the others has it
 */
export async function findSnapshots(nodes: readonly NodeClient[], path: string, signal: AbortSignal): Promise<Found[]> {
  const answers = await Promise.allSettled(
    nodes.map(async (node) => {
      const snapshot = await node.findSnapshot(path, signal);
      return snapshot ? [{ node, snapshot }] : [];
    }),
  );
  const found = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  const failed = answers.find((answer) => answer.status === "rejected");
  if (found.length === 0 && failed) throw failed.reason;
  return found;
}

/**
 * Has a snapshot taken of a pod, which goes on running. Asked again with the same id it tells of the one that there is.
 * @throws UmsError SERVICE_NOT_FOUND, what {@link podRefusals} and the node refuse, and what `Snapshots.take` rejects with
 */
export async function takeCheckpoint(
  { cluster, interfaces, limits }: CheckpointParts,
  { id, namespace, name, path }: { id: string; namespace: string; name: string; path: string },
  signal: AbortSignal,
): Promise<Taken & Readonly<{ node: string }>> {
  const before = (await findSnapshots(interfaces.all(), path, signal)).find(({ snapshot }) => snapshot.takenBy === id);
  if (before) {
    const { heldMs, need } = before.snapshot;
    return { heldMs, memoryBytes: need.memoryBytes, fileBytes: need.fileBytes, node: before.node.node };
  }
  const pod = await cluster.get(pods, name, { namespace, signal });
  if (!pod) throw new UmsError("SERVICE_NOT_FOUND", `There is no pod ${name} in namespace ${namespace}.`);
  // Whoever owns it keeps it.
  const [refused] = podRefusals(pod).filter(({ code }) => code !== "POD_OWNED");
  if (refused) throw new UmsError(refused.code, refused.detail);
  const client = await interfaces.node(pod.spec?.nodeName ?? "");
  const reference = podReference(pod);
  const described = await client.describe(reference, AbortSignal.any([signal, AbortSignal.timeout(limits.preflightMs)]));
  const [held] = described.refusals;
  if (held) throw new UmsError(held.code, held.detail);
  const { managedFields: _long, ...metadata } = pod.metadata ?? {};
  const need = podNeed({ ...pod, metadata }, described);
  const livenessMs = livenessBudgetMs(pod);
  const taken = await client.takeSnapshot(
    id,
    { path, pod: reference, need, ...(livenessMs === undefined ? {} : { livenessMs }) },
    { signal, timeoutMs: snapshotTransfers * limits.transferMs },
  );
  return { ...taken, node: client.node };
}
