/** `checkpoint`: a snapshot of a pod is written on its node, and the pod goes on running. */
import path from "node:path";
import { takeCheckpoint } from "../../../approaches/orchestrator-level/checkpoint.ts";
import { UmsError } from "../../../errors.ts";
import { isSource, type MigrationObject, migrations } from "../../../platforms/kubernetes/migration.ts";
import type { Podmigration, PodmigrationStatus } from "../../../platforms/kubernetes/podmigration.ts";
import { rescuedRoot, snapshotPathPattern, snapshotRoot } from "../../../protocol/names.ts";
import type { PodmigrationParts, Work } from "./action.ts";
import { idOf } from "./migrations.ts";

/** @throws UmsError for which none is taken */
export async function takePodCheckpoint(
  { cluster, interfaces, limits }: PodmigrationParts,
  object: Podmigration,
  { begun, signal }: Work,
): Promise<PodmigrationStatus> {
  const { namespace = "default", name = "" } = object.metadata;
  const { sourcePod, snapshotPath = path.join(snapshotRoot, name) } = object.spec;
  if (sourcePod === undefined) throw new UmsError("BAD_REQUEST", "A checkpoint needs sourcePod.");
  const place = placeOf(snapshotPath);
  if (`${place}/`.startsWith(`${rescuedRoot}/`)) throw new UmsError("BAD_REQUEST", `${rescuedRoot} is UMS's own.`);
  const told = { activePod: sourcePod, currentRevision: place };
  await begun(told);
  const { items } = await cluster.list(migrations, { namespace, signal });
  const moving = items.find((migration) => migration.spec.pod === sourcePod && isUnderWay(migration));
  if (moving) throw new UmsError("ALREADY_MIGRATING", `Pod ${sourcePod} is being migrated by ${moving.metadata.name}.`);
  const { node, heldMs, memoryBytes, fileBytes } = await takeCheckpoint(
    { cluster, interfaces, limits },
    { id: idOf(object), namespace, name: sourcePod, path: place },
    signal,
  );
  const mebibytes = Math.ceil((memoryBytes + fileBytes) / 2 ** 20);
  const message = `Node ${node} has the snapshot in ${place}: ${mebibytes} MiB. The pod stood still for ${heldMs} ms.`;
  return { state: "Completed", ...told, message };
}

/** @throws UmsError BAD_REQUEST */
export function placeOf(snapshotPath: string): string {
  const place = snapshotPath.replace(/\/+$/, "");
  if (!new RegExp(snapshotPathPattern).test(place))
    throw new UmsError(
      "BAD_REQUEST",
      `snapshotPath must be below ${snapshotRoot}/, at most four names deep, of letters, digits, ".", "_" and "-"; it is ${snapshotPath}.`,
    );
  return place;
}

const isUnderWay = (object: MigrationObject) =>
  isSource(object) && object.status?.owner !== undefined && object.status.endedAt === undefined;
