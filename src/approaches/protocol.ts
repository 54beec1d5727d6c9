/** What the source's half asks of the destination's half in every approach. */
import { type Static, Type } from "typebox";

/** A field that the schema does not name is refused. */
export const closed = { additionalProperties: false } as const;
export const Bytes = Type.Integer({ minimum: 0 });
export const Digest = Type.String({ pattern: "^sha256:[0-9a-f]{64}$" });

/** What is found out about a service before it moves. */
export const measures = {
  memoryBytes: Bytes,
  fileBytes: Bytes,
  kernel: Type.String({ maxLength: 128 }),
  cpuFeatures: Type.Array(Type.String({ maxLength: 64 }), { maxItems: 1024 }),
  cgroupVersion: Type.Union([Type.Literal(1), Type.Literal(2)]),
  /** uids of the service's processes, as the host sees them. */
  uids: Type.Array(Type.Integer({ minimum: 0 }), { maxItems: 1024 }),
};

export const Measures = Type.Object(measures, closed);
export type Measures = Static<typeof Measures>;

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

export type PeerState = "reserved" | "armed" | "restoring" | "restored" | "committed" | "gone";
