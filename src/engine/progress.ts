/** The phases that users see, in the order in which a migration passes them. */
export const phases = [
  "Pending",
  "Preflight",
  "PreCopy",
  "Frozen",
  "Transferring",
  "Restoring",
  "CuttingOver",
  "Succeeded",
  "RollingBack",
  "RolledBack",
  "Failed",
] as const;
export type Phase = (typeof phases)[number];

/** Whether no other phase comes after it. */
export const isEnd = (phase: Phase) => phase === "Succeeded" || phase === "RolledBack" || phase === "Failed";

/** What the engine tells while it works. */
export type Progress =
  | Readonly<{ kind: "phase"; phase: Phase }>
  | Readonly<{ kind: "step"; step: string; milliseconds: number }>
  | Readonly<{ kind: "undo"; step: string; milliseconds: number }>;

/** Milliseconds of each phase, and what of the total no step explains. */
export type Timings = Readonly<{ phases: Partial<Record<Phase, number>>; totalMs: number; remainderMs: number }>;
