/**
 * What the engine needs of the world. Every action is idempotent: a crashed
 * coordinator repeats the one it was in, and an undo may meet nothing to undo.
 */

/** What is to move, and where. Everything else an adapter knows, it keeps itself under the id. */
export type MigrationPlan = Readonly<{
  id: string;
  /** The service's name at the source. */
  service: string;
  /** The destination site's name, as paired. */
  destination: string;
}>;

/** Ability of a source to send state ahead while the service still runs. */
export type PreCopy = Readonly<{
  run(plan: MigrationPlan, signal: AbortSignal): Promise<void>;
  discard(plan: MigrationPlan): Promise<void>;
}>;

/** The half of a migration that happens where the service is. */
export type Source = Readonly<{
  /** Checks both sides and rejects with the first refusal; changes nothing. */
  admit(plan: MigrationPlan, signal: AbortSignal): Promise<void>;
  preCopy?: PreCopy;
  /** From here on no client reaches the service; none is refused either. */
  holdClients(plan: MigrationPlan): Promise<void>;
  releaseClients(plan: MigrationPlan): Promise<void>;
  /** Stops every task of the service and marks it durably, so that nothing starts it again. */
  freeze(plan: MigrationPlan): Promise<void>;
  thaw(plan: MigrationPlan): Promise<void>;
  /**
   * Ability of a source whose platform may end a frozen copy, as a kubelet does whose probe fails: whether it has ended, or
   * the platform has begun to end it, so that a thaw would bring nothing of it back for long. Once true it stays so until then.
   */
  isLost?(plan: MigrationPlan): Promise<boolean>;
  /** Dumps the frozen service and sends what has not gone over yet. The source stays frozen and whole. */
  transfer(plan: MigrationPlan, signal: AbortSignal): Promise<void>;
  /** Lets the held clients, and new ones, go to the destination. */
  forwardClients(plan: MigrationPlan): Promise<void>;
  /** Removes the frozen copy without letting it run again. */
  remove(plan: MigrationPlan): Promise<void>;
  /**
   * Removes whatever the migration itself left on the source: its dumps and working files, nothing of the service.
   * The last step after the commit, and the last of a rollback too.
   */
  cleanUp(plan: MigrationPlan): Promise<void>;
}>;

/** The half of a migration that happens where the service goes. */
export type Destination = Readonly<{
  /** Makes ready all that can be before the freeze. */
  reserve(plan: MigrationPlan, signal: AbortSignal): Promise<void>;
  release(plan: MigrationPlan): Promise<void>;
  /**
   * The copy runs from here on, healthy, its network held: no client reaches it before the commit. Rejects with
   * {@link CopyIsGone} where the destination says, durably, that there never will be one.
   */
  restore(plan: MigrationPlan, signal: AbortSignal): Promise<void>;
  /** Resolves only when the destination has confirmed that its copy is gone and never comes back. */
  destroyRestored(plan: MigrationPlan): Promise<void>;
  /**
   * Resolves when the destination owns the service, durably. Rejects with {@link CopyIsGone} when the
   * destination says, just as durably, that it never will; any other rejection leaves it undecided.
   */
  commit(plan: MigrationPlan): Promise<void>;
}>;

/** The destination has confirmed that it has no copy and will never commit this migration. */
export class CopyIsGone extends Error {
  override readonly name = "CopyIsGone";
}

/** Another instance carries this migration on: whoever meets this must not touch it any more. */
export class TakenOver extends Error {
  override readonly name = "TakenOver";
}

/** What survives a coordinator's crash. One instance is the journal of one migration. Any write may reject with {@link TakenOver}. */
export type Journal = Readonly<{
  isStarted(step: string): boolean;
  isDone(step: string): boolean;
  isUndone(step: string): boolean;
  /** Why the migration is being undone; undefined while it goes forward. */
  failure(): Error | undefined;
  /** Durable when it resolves: a step whose start was not journalled did not happen. */
  start(step: string): Promise<void>;
  /** May be written together with the next start. */
  done(step: string): Promise<void>;
  undone(step: string): Promise<void>;
  fail(cause: Error): Promise<void>;
}>;

/** Milliseconds from any fixed point. */
export type Clock = () => number;
