import { type Clock, CopyIsGone, type Destination, type Journal, type MigrationPlan, type Source, TakenOver } from "./ports.ts";
import type { Phase, Progress } from "./progress.ts";
import { cleanUpStep, commitStep, type FinalStep, stepsAfterCommit, stepsBeforeCommit, type UndoableStep } from "./steps.ts";

/** All that one migration needs. */
export type MigrationParts = Readonly<{
  plan: MigrationPlan;
  source: Source;
  destination: Destination;
  journal: Journal;
  /** Called synchronously, also while the service is frozen: it should be quick. What it throws is ignored. */
  observe: (progress: Progress) => void;
  clock: Clock;
}>;

/** The source's copy runs again and nothing of the migration is left. */
export type RolledBack = Readonly<{ outcome: "rolledBack"; cause: Error }>;
/** How a migration ends. */
export type Outcome = Readonly<{ outcome: "succeeded" }> | RolledBack;

/** Why a migration is undone which a crashed coordinator left before its commit. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/** Why a migration is undone by a person's word that its destination never comes back. */
export class DestinationIsGone extends Error {
  override readonly name = "DestinationIsGone";
}

/** The destination owns the service already: there is nothing to resolve without it. */
export class AlreadyCommitted extends Error {
  override readonly name = "AlreadyCommitted";
}

/**
 * The migration has not ended: call {@link migrate} again later. `cause` is what stopped it. `direction` says where
 * it will go on: "back" while it is undone, "undecided" while the destination has not said whether it has
 * committed, "forward" after the commit.
 */
export class Unfinished extends Error {
  override readonly name = "Unfinished";
  readonly direction: "back" | "undecided" | "forward";
  /** The step whose action, undo or journal entry failed. */
  readonly step: string;
  constructor(direction: Unfinished["direction"], step: string, cause: unknown) {
    super(`${direction === "back" ? `undoing ${step}` : step}: ${asError(cause).message}`, { cause });
    this.direction = direction;
    this.step = step;
  }
}

/**
 * Runs a new migration, or carries on with one that a crash or an {@link Unfinished} left. One call at a time for
 * each journal. A migration that is found in the middle is undone if its commit has not started, because a frozen
 * service should not stay frozen for longer than it must.
 *
 * The signal cancels until the phase CuttingOver has been told; after that it has no effect.
 * @throws Unfinished
 */
export async function migrate(parts: MigrationParts, signal: AbortSignal): Promise<Outcome> {
  const { journal } = parts;
  const steps = stepsBeforeCommit(parts);
  const narrator = createNarrator(parts);

  if (!journal.isDone("commit")) {
    const failure = journal.failure();
    if (failure) return await rollBack(parts, narrator, failure);

    if (!journal.isStarted("commit")) {
      if (steps.some(({ name }) => journal.isStarted(name))) {
        return await rollBack(parts, narrator, new Interrupted("the migration was interrupted before its commit"));
      }
      try {
        for (const step of steps) await runUndoable(step, parts, narrator, signal);
        signal.throwIfAborted();
        narrator.phase("CuttingOver");
        await journal.start("commit");
      } catch (cause) {
        return await rollBack(parts, narrator, asError(cause));
      }
    }

    try {
      await decide(commitStep(parts), parts, narrator);
    } catch (cause) {
      if (cause instanceof CopyIsGone) return await rollBack(parts, narrator, cause);
      throw cause;
    }
  }
  return await finish(parts, narrator);
}

/**
 * Undoes a migration on a person's word that its destination never comes back: what only the destination could
 * confirm counts as confirmed. Nothing else may be carrying on the same migration.
 * @throws AlreadyCommitted once the journal says that the destination owns the service
 * @throws Unfinished
 */
export async function resolveWithoutDestination(parts: Omit<MigrationParts, "destination">): Promise<Outcome> {
  const { journal } = parts;
  if (journal.isDone("commit")) throw new AlreadyCommitted("the destination has committed this migration");
  const isGone = async () => {
    throw new DestinationIsGone("the destination is gone");
  };
  const destination: Destination = { reserve: isGone, release: isGone, restore: isGone, destroyRestored: isGone, commit: isGone };
  const cause = journal.failure() ?? new DestinationIsGone("a person said that the destination never comes back");
  // Before anything is undone, so that it holds for later calls too, whatever the destination says by then. The
  // reservation first: a later call must not ask to release it while the copy in it has not been destroyed.
  await journalOrStop("back", "rollback", () => journal.fail(cause));
  for (const step of ["reserve", "restore"]) {
    if (journal.isStarted(step)) await journalOrStop("back", step, () => journal.undone(step));
  }
  const alone = { ...parts, destination };
  return await rollBack(alone, createNarrator(alone), cause);
}

/** Asks for the commit, whose start has been journalled. @throws CopyIsGone, Unfinished */
async function decide(commit: FinalStep, { journal }: MigrationParts, narrator: Narrator): Promise<void> {
  narrator.phase("CuttingOver");
  try {
    await narrator.timed("step", commit.name, commit.run);
  } catch (cause) {
    if (cause instanceof CopyIsGone) throw cause;
    throw new Unfinished("undecided", commit.name, cause);
  }
  await journalOrStop("forward", commit.name, () => journal.done(commit.name));
}

/** What follows the commit. @throws Unfinished */
async function finish(parts: MigrationParts, narrator: Narrator): Promise<Outcome> {
  narrator.phase("CuttingOver");
  for (const step of stepsAfterCommit(parts)) await runFinal("forward", step, parts, narrator);
  narrator.phase("Succeeded");
  return { outcome: "succeeded" };
}

/**
 * Goes forward with a migration that failed after the grant, because its source has ended while it was frozen: undoing it
 * would destroy the one copy that is whole. @throws CopyIsGone, Unfinished
 */
async function saveCopy(parts: MigrationParts, narrator: Narrator): Promise<Outcome> {
  const { plan, journal, destination } = parts;
  try {
    // All that the copy needs is there already; what failed may have been the asking alone.
    await destination.restore(plan, new AbortController().signal);
  } catch (cause) {
    if (cause instanceof CopyIsGone) throw cause;
    throw new Unfinished("undecided", "restore", cause);
  }
  if (!journal.isStarted("commit")) await journalOrStop("undecided", "commit", () => journal.start("commit"));
  await decide(commitStep(parts), parts, narrator);
  return await finish(parts, narrator);
}

/** Whether the source has ended while its memory is, or may be, at the destination. @throws Unfinished */
async function isLostAfterGrant({ plan, journal, source }: MigrationParts): Promise<boolean> {
  if (!source.isLost || !journal.isStarted("restore") || journal.isUndone("restore")) return false;
  try {
    return await source.isLost(plan);
  } catch (cause) {
    throw new Unfinished("back", "restore", cause);
  }
}

/** Between freeze and restore this writes the journal once: for the grant. */
async function runUndoable(step: UndoableStep, { journal }: MigrationParts, narrator: Narrator, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  narrator.phase(step.phase);
  // That it ended is not journalled: after a crash it is undone either way.
  if (step.journalled) await journal.start(step.name);
  await narrator.timed("step", step.name, () => step.run(signal));
}

async function runFinal(direction: "back" | "forward", step: FinalStep, { journal }: MigrationParts, narrator: Narrator): Promise<void> {
  if (journal.isDone(step.name)) return;
  await journalOrStop(direction, step.name, () => journal.start(step.name));
  try {
    await narrator.timed("step", step.name, step.run);
  } catch (cause) {
    throw new Unfinished(direction, step.name, cause);
  }
  await journalOrStop(direction, step.name, () => journal.done(step.name));
}

/**
 * Undoes newest first, and takes no signal: a cancelled migration still rolls back. It stops at the first undo that
 * fails, since thawing the source while the destination's copy may run would leave two alive. Only where there is
 * nothing left to go back to does it go forward.
 */
async function rollBack(parts: MigrationParts, narrator: Narrator, cause: Error): Promise<Outcome> {
  const { journal } = parts;
  narrator.phase("RollingBack");
  let unwritten: Unfinished | undefined;

  if (!journal.failure()) {
    try {
      await journal.fail(cause);
    } catch (error) {
      unwritten = new Unfinished("back", "rollback", error);
      // Once the commit has started, only the journalled failure keeps the next call from committing again.
      if (journal.isStarted("commit") || error instanceof TakenOver) throw unwritten;
    }
  }

  if (await isLostAfterGrant(parts)) {
    try {
      return await saveCopy(parts, narrator);
    } catch (error) {
      if (!(error instanceof CopyIsGone)) throw error;
    }
  }

  for (const { name, undo } of stepsBeforeCommit(parts).toReversed()) {
    if (!undo || !journal.isStarted(name) || journal.isUndone(name)) continue;
    try {
      await narrator.timed("undo", name, undo);
    } catch (error) {
      throw new Unfinished("back", name, error);
    }
    try {
      await journal.undone(name);
    } catch (error) {
      if (error instanceof TakenOver) throw new Unfinished("back", name, error);
      // A full disk at the source must not keep the service frozen. The next call finds the step still to be
      // undone, and undoes it once more: that is safe, since nothing goes forward from here.
      unwritten ??= new Unfinished("back", name, error);
    }
  }

  // Before the reservation nothing has been changed, and the service may not even exist.
  if (journal.isStarted("reserve")) await runFinal("back", cleanUpStep(parts), parts, narrator);
  if (unwritten) throw unwritten;
  narrator.phase("RolledBack");
  return { outcome: "rolledBack", cause };
}

async function journalOrStop(direction: Unfinished["direction"], step: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (cause) {
    throw new Unfinished(direction, step, cause);
  }
}

type Narrator = ReturnType<typeof createNarrator>;

/** Tells each phase once and how long each action took, also one that failed. */
function createNarrator({ observe, clock }: Pick<MigrationParts, "observe" | "clock">) {
  let current: Phase | undefined;
  const tell = (progress: Progress) => {
    try {
      observe(progress);
    } catch {
      // Whoever watches must not be able to break a migration.
    }
  };
  return {
    phase(phase: Phase) {
      if (phase === current) return;
      current = phase;
      tell({ kind: "phase", phase });
    },
    async timed(kind: "step" | "undo", step: string, action: () => Promise<void>) {
      const startedAt = clock();
      try {
        await action();
      } finally {
        tell({ kind, step, milliseconds: clock() - startedAt });
      }
    },
  };
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
