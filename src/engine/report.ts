import type { Clock } from "./ports.ts";
import { isEnd, type Phase, type Progress, type Timings } from "./progress.ts";

/** Where the milliseconds of one migration went. */
export type Report = Timings &
  Readonly<{
    /** Milliseconds by step; an undo counts as `undo <step>`, and a repeated step adds up. */
    steps: Readonly<Record<string, number>>;
    /**
     * For how long a client has waited at worst: from the beginning of the hold to the end of the forward, or of the release;
     * undefined while neither has ended.
     */
    heldMs?: number;
  }>;

/**
 * Adds up the progress of a migration. The total runs from the first phase after Pending to the end; what of it no
 * step and no undo accounts for is the remainder: journal writes, waits between two calls, and whatever else is lost.
 * @param options.heldForMs how long clients had been held already by a process that has ended
 */
export function createReport(
  clock: Clock,
  { heldForMs }: { heldForMs?: number | undefined } = {},
): Readonly<{ observe(progress: Progress): void; report(): Report }> {
  const phases: Partial<Record<Phase, number>> = {};
  const steps: Record<string, number> = {};
  let current: { phase: Phase; since: number } | undefined;
  let startedAt: number | undefined;
  let endedAt: number | undefined;
  let heldSince = heldForMs === undefined ? undefined : clock() - heldForMs;
  let heldMs: number | undefined;

  function enter(phase: Phase) {
    const now = clock();
    if (current) phases[current.phase] = (phases[current.phase] ?? 0) + now - current.since;
    if (isEnd(phase)) {
      current = undefined;
      endedAt ??= now;
      return;
    }
    current = { phase, since: now };
    endedAt = undefined;
    if (phase !== "Pending") startedAt ??= now;
  }

  function spend(name: string, milliseconds: number) {
    steps[name] = (steps[name] ?? 0) + milliseconds;
    if (name === "hold-clients") heldSince ??= clock() - milliseconds;
    if ((name === "forward-clients" || name === "undo hold-clients") && heldSince !== undefined) heldMs = clock() - heldSince;
  }

  return {
    observe(progress) {
      if (progress.kind === "phase") enter(progress.phase);
      else spend(progress.kind === "undo" ? `undo ${progress.step}` : progress.step, progress.milliseconds);
    },
    report() {
      const now = endedAt ?? clock();
      const inPhases = { ...phases };
      if (current) inPhases[current.phase] = (inPhases[current.phase] ?? 0) + now - current.since;
      const totalMs = startedAt === undefined ? 0 : now - startedAt;
      const explainedMs = Object.values(steps).reduce((sum, milliseconds) => sum + milliseconds, 0);
      return {
        phases: inPhases,
        steps: { ...steps },
        totalMs,
        remainderMs: totalMs - explainedMs,
        ...(heldMs === undefined ? {} : { heldMs }),
      };
    },
  };
}
