/** What is found out about a service before it moves, and what its destination says to that. */
import { type Static, Type } from "typebox";
import { Bytes, closed } from "./forms.ts";

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

/** Those of what has more to tell. */
export const measuresOf = ({ memoryBytes, fileBytes, kernel, cpuFeatures, cgroupVersion, uids }: Measures): Measures => ({
  memoryBytes,
  fileBytes,
  kernel,
  cpuFeatures,
  cgroupVersion,
  uids,
});

export const CheckResult = Type.Object(
  {
    name: Type.String({ maxLength: 200 }),
    ok: Type.Boolean(),
    code: Type.Optional(Type.String({ maxLength: 64 })),
    detail: Type.Optional(Type.String({ maxLength: 4000 })),
    /** What will be different after the move, though the check refuses nothing: a sentence each. */
    notes: Type.Optional(Type.Array(Type.String({ maxLength: 1000 }), { maxItems: 32 })),
  },
  closed,
);
export type CheckResult = Static<typeof CheckResult>;

/** What a check comes to: a service can move with a note as well as without. */
export const verdicts = ["ok", "note", "refused"] as const;
export type Verdict = (typeof verdicts)[number];
