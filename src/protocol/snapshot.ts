/** What is written beside the memory and files of a pod's snapshot, and how one is asked for. */
import { type Static, type TSchema, Type } from "typebox";
import { DataTarget, StreamContent } from "./conversation.ts";
import { Bytes, closed } from "./forms.ts";
import { snapshotPathPattern } from "./names.ts";
import { PodNeed, type PodOnNode, PodReference } from "./pod.ts";

export const SnapshotPath = Type.String({ pattern: snapshotPathPattern, maxLength: 1024 });
const Id = Type.String({ pattern: "^[0-9a-f]{12}$" });

/** How a snapshot is to be taken. The node finds out the rest. */
export const TakeSnapshot = Type.Object(
  {
    path: SnapshotPath,
    pod: PodReference,
    /** What a destination will be asked for; its sizes are measured anew. */
    need: PodNeed,
    /** For how long the pod's liveness probes bear that it stands still. */
    livenessMs: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  closed,
);
export type TakeSnapshot = Static<typeof TakeSnapshot>;

/** The same of a frozen pod that won't go on: its memory is what its migration has dumped. */
export const RescueSnapshot = Type.Pick(TakeSnapshot, ["path", "pod", "need"], closed);
export type RescueSnapshot = Static<typeof RescueSnapshot>;

/** Such a request with the pod as its node has found it. */
export type OnNode<Request> = Omit<Request, "pod"> & Readonly<{ pod: PodOnNode }>;

/** How many times the limit of a transfer a snapshot may take: the files are copied, the memory is dumped or copied, and the disk has its time. */
export const snapshotTransfers = 3;

const known = {
  path: SnapshotPath,
  takenBy: Id,
  /** Of the pod that it was taken of: its memory is for those alone who may do anything with that. */
  namespace: PodReference.properties.namespace,
};

/** Which snapshot is meant. */
export const KnownSnapshot = Type.Object(known, closed);
export type KnownSnapshot = Static<typeof KnownSnapshot>;

/** Sends a snapshot to where a destination takes it. */
export const ReplaySnapshot = Type.Object({ ...known, target: DataTarget }, closed);
export type ReplaySnapshot = Static<typeof ReplaySnapshot>;

const told = {
  /** Of the request by which it was taken: never another snapshot's. */
  takenBy: Id,
  takenAt: Type.String({ maxLength: 40 }),
  /** For how long the pod stood still, in milliseconds. */
  heldMs: Bytes,
  need: PodNeed,
};

/** One stream: what it says of itself, and the file that has its content, where it has any. */
export const KeptStream = <What extends TSchema>(what: What) =>
  Type.Object({ what, file: Type.Optional(Type.String({ pattern: "^[0-9]{1,9}$" })) }, closed);
export type KeptStream = Static<ReturnType<typeof KeptStream>>;

/** The file that makes a directory a snapshot. */
export const PodSnapshot = Type.Object({ version: Type.Literal(1), ...told, streams: Type.Array(KeptStream(StreamContent)) }, closed);
export type PodSnapshot = Static<typeof PodSnapshot>;

/** What a node tells of a snapshot. */
export type SnapshotSummary = Pick<PodSnapshot, keyof typeof told>;
