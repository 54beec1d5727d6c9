import { CopyIsGone, type Destination, type Journal, type MigrationPlan, type Source } from "./ports.ts";
import { createMemoryDisk, type MemoryDisk, openMemoryJournal } from "./memory-journal.ts";
import { migrate, type Outcome, resolveWithoutDestination } from "./migrate.ts";
import type { Progress } from "./progress.ts";

/** The coordinator has died: nothing of that life has an effect any more. */
class Crash extends Error {
  override readonly name = "Crash";
}

/**
 * What goes wrong in one operation. "before" and "after" are relative to its effect; "late" is an effect that sets
 * in while the next operations already run, as at a destination that goes on with a request whose sender has died.
 */
export type Fault = Readonly<{ when: "before" | "after" | "late"; what: "crash" | "failure" | "cancel" }>;

/** Decides what goes wrong with the operation of this name, the `index`th of all. */
export type Faults = (operation: string, index: number) => Fault | undefined;

const plan: MigrationPlan = { id: "m1abcdefgh", service: "redis", destination: "west" };

/**
 * A source, a destination and the clients between them, as small as the promises allow. Each operation, also each
 * journal write, is checked against the promises before and after its effect.
 */
export class World {
  /** "lost": its platform has ended it while it was frozen. */
  source: "running" | "frozen" | "lost" | "removed" = "running";
  destination: "none" | "reserved" | "held" | "live" | "gone" = "none";
  traffic: "source" | "held" | "destination" = "source";
  copiedAhead = false;
  dumpedFiles = false;
  /** The destination has promised, durably, that it never runs a copy of this migration. */
  refusesForGood = false;
  /** A person has said, and it is true, that the destination never comes back. */
  givenUp = false;
  /** The calls to the destination fail while this is false. */
  reachable = true;
  hasPreCopy = true;
  /** Whether the source's platform may end a frozen copy, and the source can tell. */
  canBeLost = false;
  /** The engine has been told that the source's copy has ended. */
  toldOfLoss = false;
  buffersDone = true;

  readonly disk: MemoryDisk = createMemoryDisk();
  readonly operations: string[] = [];
  readonly broken: string[] = [];
  readonly progress: Progress[] = [];
  faults: Faults = () => undefined;
  /** Whether the source's platform ends its copy, if that is frozen, before the operation of this index. */
  endings: (index: number) => boolean = () => false;
  #late: { effect: () => void; after: number }[] = [];
  #life = { dead: false, cancel: new AbortController() };
  #journal: Journal | undefined;

  /** One call of the engine, on a new journal if the coordinator has crashed since the last one. */
  async migrate(): Promise<Outcome> {
    this.#revive();
    const { journal, source, destination, observe } = this.#parts();
    return await migrate({ plan, source, destination, journal, observe, clock: () => 0 }, this.#life.cancel.signal);
  }

  async resolveWithoutDestination(): Promise<Outcome> {
    this.#revive();
    this.givenUp = true;
    const { journal, source, observe } = this.#parts();
    return await resolveWithoutDestination({ plan, source, journal, observe, clock: () => 0 });
  }

  cancel(): void {
    this.#life.cancel.abort(new Error("cancelled"));
  }

  /** Calls until the migration has ended, as a coordinator does. */
  async migrateToTheEnd(maxCalls = 12): Promise<Outcome> {
    let last: unknown;
    for (let call = 0; call < maxCalls; call++) {
      try {
        return await this.migrate();
      } catch (error) {
        last = error;
      }
    }
    throw new Error(`the migration doesn't end: ${this.describe()}`, { cause: last });
  }

  /** Each promise that does not hold at the end of a migration. */
  brokenAtTheEnd(outcome: Outcome): string[] {
    this.#runLate(Infinity);
    const expected =
      outcome.outcome === "succeeded"
        ? { source: "removed", traffic: "destination", destination: ["live"] }
        : { source: "running", traffic: "source", destination: this.givenUp ? ["none", "reserved", "held", "live", "gone"] : ["none"] };
    const found = [...this.broken];
    if (this.source !== expected.source) found.push(`the source's copy is ${this.source}`);
    if (!expected.destination.includes(this.destination)) found.push(`the destination's copy is ${this.destination}`);
    if (this.traffic !== expected.traffic) found.push(`clients reach ${this.traffic}`);
    if (this.dumpedFiles) found.push("dumped files are left");
    if (outcome.outcome === "rolledBack" && this.copiedAhead) found.push("memory that was copied ahead is left");
    return found;
  }

  describe(): string {
    const { source, destination, traffic, operations } = this;
    return JSON.stringify({ source, destination, traffic, operations });
  }

  #revive() {
    if (!this.#life.dead) return;
    this.#life = { dead: false, cancel: new AbortController() };
    this.#journal = undefined;
  }

  #parts() {
    const life = this.#life;
    const disk = (this.#journal ??= openMemoryJournal(this.disk, { buffersDone: this.buffersDone }));
    const operate = async (operation: string, effect: () => void | Promise<void>, signal?: AbortSignal) => {
      if (life.dead) throw new Crash(operation);
      const fault = this.faults(operation, this.operations.length);
      if (this.canBeLost && this.source === "frozen" && this.endings(this.operations.length)) this.source = "lost";
      this.operations.push(operation);
      this.#runLate(1);
      this.#check(operation);
      if (fault?.when === "before") this.#strike(fault, operation, life);
      if (signal?.aborted) throw signal.reason;
      if (fault?.when === "late") {
        this.#late.push({ effect: () => void effect(), after: 2 });
        this.#strike(fault, operation, life);
      }
      await effect();
      this.#check(operation);
      if (fault?.when === "after") this.#strike(fault, operation, life);
    };
    const atDestination = (operation: string, effect: () => void, signal?: AbortSignal) =>
      operate(
        operation,
        () => {
          if (!this.reachable) throw new Error("the destination does not answer");
          effect();
        },
        signal,
      );

    const source: Source = {
      admit: (_, signal) => operate("admit", () => {}, signal),
      ...(this.hasPreCopy
        ? {
            preCopy: {
              run: (_: MigrationPlan, signal: AbortSignal) =>
                operate(
                  "pre-copy",
                  () => {
                    this.copiedAhead = true;
                    this.dumpedFiles = true;
                  },
                  signal,
                ),
              discard: () => operate("discard", () => void (this.copiedAhead = false)),
            },
          }
        : {}),
      holdClients: () => operate("hold-clients", () => void (this.traffic = "held")),
      releaseClients: () => operate("release-clients", () => void (this.traffic = "source")),
      freeze: () =>
        operate("freeze", () => {
          if (this.source === "running") this.source = "frozen";
        }),
      ...(this.canBeLost
        ? {
            isLost: async () => {
              await operate("is-lost", () => {});
              this.toldOfLoss ||= this.source === "lost";
              return this.source === "lost";
            },
          }
        : {}),
      thaw: () =>
        operate("thaw", () => {
          if (this.source === "removed") this.broken.push("a removed source was thawed");
          // A copy that has ended is started afresh at the thaw.
          if (
            (this.source === "frozen" || this.source === "lost") &&
            this.disk.started.has("restore") &&
            !this.refusesForGood &&
            !this.givenUp
          ) {
            this.broken.push("the source was thawed after the grant, and the destination had not confirmed");
          }
          this.source = "running";
        }),
      transfer: (_, signal) =>
        operate(
          "transfer",
          () => {
            if (this.source === "lost") throw new Error("there is nothing to dump");
            if (this.source !== "frozen") this.broken.push("a running source was dumped");
            this.dumpedFiles = true;
          },
          signal,
        ),
      forwardClients: () =>
        operate("forward-clients", () => {
          if (!this.disk.done.has("commit")) this.broken.push("clients were forwarded before the commit was durable here");
          this.traffic = "destination";
        }),
      remove: () =>
        operate("remove-source", () => {
          if (!this.disk.done.has("commit")) this.broken.push("the source was removed before its commit");
          this.source = "removed";
        }),
      cleanUp: () => operate("clean-up", () => void (this.dumpedFiles = false)),
    };

    const destination: Destination = {
      reserve: (_, signal) =>
        atDestination(
          "reserve",
          () => {
            if (this.refusesForGood) throw new Error("this migration has been released");
            if (this.destination === "none") this.destination = "reserved";
          },
          signal,
        ),
      release: () =>
        atDestination("release", () => {
          if (this.destination === "held" || this.destination === "live") throw new Error("a copy runs here");
          this.refusesForGood = true;
          this.destination = "none";
        }),
      restore: (_, signal) =>
        atDestination(
          "restore",
          () => {
            if (!this.disk.started.has("restore")) this.broken.push("a copy was restored without a grant");
            if (this.refusesForGood || this.destination === "none") throw new CopyIsGone("there is nothing to restore into");
            if (this.destination === "reserved") this.destination = "held";
          },
          signal,
        ),
      destroyRestored: () =>
        atDestination("destroy-restored", () => {
          if (this.destination === "live") throw new Error("this copy is committed");
          if (this.destination === "held" && this.toldOfLoss) this.broken.push("the one copy that was whole was destroyed");
          this.refusesForGood = true;
          if (this.destination === "held") this.destination = "gone";
        }),
      commit: () =>
        atDestination("commit", () => {
          if (!this.disk.started.has("commit")) this.broken.push("a commit whose start was not journalled");
          if (this.destination === "live") return;
          if (this.destination !== "held") {
            this.refusesForGood = true;
            throw new CopyIsGone("no copy here");
          }
          this.destination = "live";
        }),
    };

    const journal: Journal = {
      ...disk,
      start: (step) => operate(`journal start ${step}`, () => disk.start(step)),
      // In memory until the next write: it can't fail, and only a crash can lose it.
      done: (step) => (life.dead ? Promise.reject(new Crash(step)) : disk.done(step)),
      undone: (step) => operate(`journal undone ${step}`, () => disk.undone(step)),
      fail: (cause) => operate("journal fail", () => disk.fail(cause)),
    };
    return { source, destination, journal, observe: (progress: Progress) => void this.progress.push(progress) };
  }

  #strike(fault: Fault, operation: string, life: { dead: boolean }) {
    if (fault.what === "cancel") return this.cancel();
    if (fault.what === "failure") throw new Error(`${operation} failed`);
    life.dead = true;
    throw new Crash(operation);
  }

  #runLate(passed: number) {
    const due = this.#late.filter((late) => (late.after -= passed) < 0);
    this.#late = this.#late.filter((late) => late.after >= 0);
    for (const { effect } of due) {
      try {
        effect();
      } catch {
        // Nobody is left who waits for its answer.
      }
    }
  }

  /** The promises that hold at every moment. */
  #check(operation: string) {
    const { source, destination, traffic } = this;
    const runsThere = destination === "held" || destination === "live";
    const promise = (holds: boolean, text: string) => {
      if (!holds) this.broken.push(`${text} (at ${operation})`);
    };
    // What a person has given up on doesn't answer, and so doesn't run.
    promise(!(source === "running" && runsThere && !this.givenUp), "two copies are alive");
    promise(!(source === "removed" && destination !== "live"), "no copy is left");
    promise(traffic !== "source" || source === "running", "clients reach a frozen or removed source");
    promise(traffic !== "destination" || destination === "live", "clients reach a copy that is not committed");
  }
}
