import type { Destination, MigrationPlan, Source } from "./ports.ts";
import type { Phase } from "./progress.ts";

/** A step before the commit. */
export type UndoableStep = Readonly<{
  name: string;
  phase: Phase;
  /** False for a step that leaves nothing of its own to undo: it costs no journal write. */
  journalled: boolean;
  run(signal: AbortSignal): Promise<void>;
  undo?(): Promise<void>;
}>;

/** A step from the commit on: it takes no signal and is never undone. */
export type FinalStep = Readonly<{ name: string; run(): Promise<void> }>;

type Sides = Readonly<{ plan: MigrationPlan; source: Source; destination: Destination }>;

/**
 * What comes before the commit, in order. It is undone newest first, so what the destination has to answer for
 * comes last of all: before the grant, a destination that can't be reached doesn't keep the service frozen.
 */
export function stepsBeforeCommit({ plan, source, destination }: Sides): UndoableStep[] {
  const { preCopy } = source;
  const steps: UndoableStep[] = [
    { name: "admit", phase: "Preflight", journalled: true, run: (signal) => source.admit(plan, signal) },
    {
      name: "reserve",
      phase: "Preflight",
      journalled: true,
      run: (signal) => destination.reserve(plan, signal),
      undo: () => destination.release(plan),
    },
  ];
  if (preCopy) {
    steps.push({
      name: "pre-copy",
      phase: "PreCopy",
      journalled: true,
      run: (signal) => preCopy.run(plan, signal),
      undo: () => preCopy.discard(plan),
    });
  }
  steps.push(
    {
      name: "hold-clients",
      phase: "Frozen",
      journalled: true,
      run: () => source.holdClients(plan),
      undo: () => source.releaseClients(plan),
    },
    { name: "freeze", phase: "Frozen", journalled: true, run: () => source.freeze(plan), undo: () => source.thaw(plan) },
    { name: "transfer", phase: "Transferring", journalled: false, run: (signal) => source.transfer(plan, signal) },
    {
      // Its journalled start is the grant: from then on the source thaws only after destroyRestored has succeeded.
      name: "restore",
      phase: "Restoring",
      journalled: true,
      run: (signal) => destination.restore(plan, signal),
      undo: () => destination.destroyRestored(plan),
    },
  );
  return steps;
}

/** The one moment after which the destination owns the service. */
export function commitStep({ plan, destination }: Sides): FinalStep {
  return { name: "commit", run: () => destination.commit(plan) };
}

/** The last step of a migration, whichever way it went. */
export function cleanUpStep({ plan, source }: Sides): FinalStep {
  return { name: "clean-up", run: () => source.cleanUp(plan) };
}

/** What comes after the commit, in order. */
export function stepsAfterCommit(sides: Sides): FinalStep[] {
  const { plan, source } = sides;
  return [
    { name: "forward-clients", run: () => source.forwardClients(plan) },
    { name: "remove-source", run: () => source.remove(plan) },
    cleanUpStep(sides),
  ];
}
