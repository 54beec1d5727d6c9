/** What the source's half asks of the destination's half, validated where it comes in. */
import { type Static, Type } from "typebox";
import { ContainerSpec } from "../../container-engines/spec.ts";

const closed = { additionalProperties: false } as const;
const Bytes = Type.Integer({ minimum: 0 });
const Digest = Type.String({ pattern: "^sha256:[0-9a-f]{64}$" });

const ImageNeed = Type.Object(
  {
    id: Type.String({ pattern: "^[0-9a-f]{64}$" }),
    names: Type.Array(Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}$" }), { maxItems: 64 }),
    digests: Type.Array(Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}$" }), { maxItems: 64 }),
    layers: Type.Array(Digest, { maxItems: 512 }),
    sizeBytes: Bytes,
    format: Type.Union([Type.Literal("oci"), Type.Literal("docker")]),
  },
  closed,
);

/** All that the destination must know beforehand: of `check`, which changes nothing, and of the reservation. */
export const Need = Type.Object(
  {
    spec: ContainerSpec,
    image: ImageNeed,
    volumes: Type.Array(
      Type.Object(
        { name: Type.String({ pattern: "^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$" }), labels: Type.Record(Type.String(), Type.String()) },
        closed,
      ),
      {
        maxItems: 64,
      },
    ),
    memoryBytes: Bytes,
    fileBytes: Bytes,
    kernel: Type.String({ maxLength: 128 }),
    cpuFeatures: Type.Array(Type.String({ maxLength: 64 }), { maxItems: 1024 }),
    /** uids of the service's processes, as the host sees them. */
    uids: Type.Array(Type.Integer({ minimum: 0 }), { maxItems: 1024 }),
  },
  closed,
);
export type Need = Static<typeof Need>;

export const CheckResult = Type.Object(
  {
    name: Type.String({ maxLength: 200 }),
    ok: Type.Boolean(),
    code: Type.Optional(Type.String({ maxLength: 64 })),
    detail: Type.Optional(Type.String({ maxLength: 4000 })),
  },
  closed,
);
export type CheckResult = Static<typeof CheckResult>;

export const CheckAnswer = Type.Object({ checks: Type.Array(CheckResult), imageBytes: Bytes }, closed);
export type CheckAnswer = Static<typeof CheckAnswer>;

/** `layers`: those which the destination lacks; absent when it has the whole image. */
export type ReserveAnswer = Readonly<{ layers?: string[] }>;

/** What a stream of the data connection carries. */
export const StreamContent = Type.Union([
  Type.Object(
    {
      kind: Type.Literal("tree"),
      tree: Type.String({ pattern: "^(changes|shm|volume:[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127})$" }),
      deleted: Type.Array(Type.String()),
    },
    closed,
  ),
  Type.Object({ kind: Type.Literal("log") }, closed),
  Type.Object(
    { kind: Type.Literal("image"), file: Type.String({ pattern: "^(blobs/sha256/)?[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$" }) },
    closed,
  ),
]);
export type StreamContent = Static<typeof StreamContent>;

export type PeerState = "reserved" | "armed" | "restoring" | "restored" | "committed" | "gone";
