/** What crosses between the parts of the orchestrator-level approach, validated where it comes in. */
import { type Static, Type } from "typebox";
import type { ErrorCode } from "../errors.ts";
import { DataTarget } from "./conversation.ts";
import { AbsolutePath, Bytes, closed, ImageByDigest, IPv4, Label, Port, Protocol } from "./forms.ts";
import { Launch } from "./launch.ts";
import { type Measures, measures } from "./measures.ts";
import { siteNamePattern } from "./names.ts";

const Uid = Type.String({ pattern: "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" });
const ContainerId = Type.String({ pattern: "^[0-9a-f]{64}$" });
const Secret = Type.String({ pattern: "^[0-9a-f]{32}$" });

/** A pod as its API object names it: enough to find it on its node. */
export const PodReference = Type.Object(
  {
    namespace: Label,
    name: Type.String({ maxLength: 253, pattern: "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" }),
    uid: Uid,
    /** In the order in which the kubelet starts them. */
    containers: Type.Array(Type.Object({ name: Label, id: ContainerId, restarts: Type.Integer({ minimum: 0 }) }, closed), {
      minItems: 1,
      maxItems: 64,
    }),
    /** Names of its emptyDir volumes. */
    volumes: Type.Array(Label, { maxItems: 64 }),
  },
  closed,
);
export type PodReference = Static<typeof PodReference>;

/** Whose pod is meant. */
export const PodIdentity = Type.Pick(PodReference, ["namespace", "name", "uid"], closed);
export type PodIdentity = Static<typeof PodIdentity>;

/** What a node works on as root, where such things lie and nowhere else. */
const PathBelow = (...tops: string[]) => Type.Intersect([AbsolutePath, Type.String({ pattern: `^(${tops.join("|")})/` })]);
const containerdState = "/(var/)?run(/k3s)?/containerd";
const Freezer = Type.Object({ version: Type.Union([Type.Literal(1), Type.Literal(2)]), directory: PathBelow("/sys/fs/cgroup") }, closed);

/** The same as its node itself has found it: what the source's half works with there. */
export const PodOnNode = Type.Object(
  {
    uid: Uid,
    /** The network namespace of its sandbox. */
    network: PathBelow("/(var/)?run/netns", "/proc/[0-9]+/ns"),
    containers: Type.Array(
      Type.Object(
        {
          name: Label,
          id: ContainerId,
          pid: Type.Integer({ minimum: 2 }),
          runcRoot: PathBelow(containerdState),
          freezer: Freezer,
          /** A snapshot of containerd's, wherever it keeps them. */
          changesDirectory: Type.Intersect([AbsolutePath, Type.String({ pattern: "/snapshots/[0-9]+/fs$" })]),
          logPath: PathBelow("/var/log/pods"),
        },
        closed,
      ),
    ),
    volumes: Type.Array(Type.Object({ name: Label, directory: PathBelow("/var/lib/kubelet/pods") }, closed)),
    /** The pod's own /dev/shm. */
    shm: Type.Optional(PathBelow(containerdState)),
  },
  closed,
);
export type PodOnNode = Static<typeof PodOnNode>;

/** What a node keeps of a pod that leaves, so that an undo finds it after a crash. */
export const KeptPod = Type.Object({ of: PodIdentity, pod: PodOnNode }, closed);
export type KeptPod = Static<typeof KeptPod>;

/** What a node finds out about a pod beforehand. */
export type Described = Readonly<{
  measures: Measures;
  /** By the container's name. */
  launches: Readonly<Record<string, Launch>>;
  refusals: readonly { code: ErrorCode; detail: string }[];
  /** What will be different after the move, a sentence each. */
  notes: readonly string[];
}>;

/** All that the destination must know beforehand. `pod` is the manifest of the pod to make; the destination judges it as any user's. */
export const PodNeed = Type.Object(
  {
    kind: Type.Literal("Pod"),
    pod: Type.Object({
      /** `uid`: the source's, where it is a Pod there. */
      metadata: Type.Object({ name: PodReference.properties.name, namespace: Label, uid: Type.Optional(Type.String({ maxLength: 64 })) }),
      spec: Type.Object({ containers: Type.Array(Type.Object({ name: Label })) }),
    }),
    /** The node on which it is to run. */
    node: Type.Optional(PodReference.properties.name),
    /** In the order in which the kubelet starts them; with the image by its digest where the source knows that. */
    containers: Type.Array(Type.Object({ name: Label, image: Type.Optional(ImageByDigest), launch: Launch }, closed), {
      minItems: 1,
      maxItems: 64,
    }),
    volumes: Type.Array(Label, { maxItems: 64 }),
    /** Ports of the pod that clients reach at the source, and how: by a port of its hosts, or the service's own. */
    ports: Type.Array(Type.Object({ port: Port, published: Port, protocol: Protocol }, closed), { maxItems: 256 }),
    ...measures,
  },
  closed,
);
export type PodNeed = Static<typeof PodNeed>;

/** What the destination answers once it owns the service: the Pod, if it made one and that is still there. */
export const CommitAnswer = Type.Object({
  pod: Type.Optional(Type.Union([Type.Null(), Type.Object({ metadata: Type.Object({ name: PodReference.properties.name }) })])),
});
export type CommitAnswer = Static<typeof CommitAnswer>;

/** A port of a node. */
export const PublishedPort = Type.Object({ port: Port, protocol: Protocol }, closed);
export type PublishedPort = Static<typeof PublishedPort>;

/** How a node leads clients of a Service to the destination. */
export const NodeForwarding = Type.Object(
  {
    slot: Type.Integer({ minimum: 1, maximum: 250 }),
    to: Type.String({ maxLength: 253 }),
    ports: Type.Array(
      Type.Object(
        {
          /** Empty: every address of the node (a node port). */
          address: Type.String({ pattern: "^[0-9.]*$" }),
          port: Port,
          toPort: Port,
          protocol: Protocol,
        },
        closed,
      ),
      { maxItems: 256 },
    ),
    /** IPv4 addresses of the pod that leaves. */
    leaving: Type.Array(IPv4, { maxItems: 16 }),
  },
  closed,
);
export type NodeForwarding = Static<typeof NodeForwarding>;

/** Body of every request about a pod that leaves. */
export const LeavingPod = Type.Object({ pod: PodReference, target: Type.Optional(DataTarget) }, closed);
export type LeavingPod = Static<typeof LeavingPod>;

/** Body of the request that announces a pod which arrives. */
export const ArrivingPod = Type.Object(
  {
    uid: Uid,
    namespace: PodReference.properties.namespace,
    name: PodReference.properties.name,
    /** The site that may send. */
    peer: Type.String({ pattern: siteNamePattern }),
    secret: Secret,
    containers: Type.Array(Label, { minItems: 1, maxItems: 64 }),
    /** By the container's name: what its dump wants mounted. */
    mounts: Type.Record(Label, Launch.properties.mounts),
    /** In the order of the need's list. */
    volumes: Type.Array(Label, { maxItems: 64 }),
    memoryBytes: Bytes,
    fileBytes: Bytes,
  },
  closed,
);
export type ArrivingPod = Static<typeof ArrivingPod>;

/** One that was announced, possibly to an earlier process of its node. */
export const ArrivedPod = Type.Pick(ArrivingPod, ["uid", "namespace", "name", "containers"], closed);
export type ArrivedPod = Static<typeof ArrivedPod>;
