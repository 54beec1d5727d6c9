import { describe, expect, test } from "vitest";
import { AlreadyCommitted, DestinationIsGone, Interrupted, migrate, Unfinished } from "./migrate.ts";
import { type Fault, type Faults, World } from "./model-world.ts";
import { createMemoryDisk, openMemoryJournal } from "./memory-journal.ts";
import { TakenOver } from "./ports.ts";

const stepsInOrder = [
  "admit",
  "reserve",
  "pre-copy",
  "hold-clients",
  "freeze",
  "transfer",
  "restore",
  "commit",
  "forward-clients",
  "remove-source",
  "clean-up",
] as const;
const undosInOrder = ["destroy-restored", "thaw", "release-clients", "discard", "release"] as const;

const withoutJournal = (operations: string[]) => operations.filter((operation) => !operation.startsWith("journal"));
const isUndo = (operation: string) => (undosInOrder as readonly string[]).includes(operation);

/** The fault strikes at the first operation of the name. */
function once(name: string, fault: Fault): Faults {
  let struck = false;
  return (operation) => {
    if (struck || operation !== name) return undefined;
    struck = true;
    return fault;
  };
}

/** A plan, and sides that do nothing but call. */
const migrationOf = (call: (name: string) => () => Promise<void>) => ({
  plan: { id: "m1abcdefgh", service: "redis", destination: "west" },
  source: {
    admit: call("admit"),
    holdClients: call("hold"),
    releaseClients: call("release clients"),
    freeze: call("freeze"),
    thaw: call("thaw"),
    transfer: call("transfer"),
    forwardClients: call("forward"),
    remove: call("remove"),
    cleanUp: call("clean up"),
  },
  destination: {
    reserve: call("reserve"),
    release: call("release"),
    restore: call("restore"),
    destroyRestored: call("destroy"),
    commit: call("commit"),
  },
});

test("an engine whose migration another one has taken over undoes nothing", async () => {
  const calls: string[] = [];
  const call = (name: string) => async () => void calls.push(name);
  const memory = openMemoryJournal(createMemoryDisk());
  const refuse = async () => {
    throw new TakenOver("another one runs it");
  };
  const parts = {
    ...migrationOf(call),
    journal: {
      ...memory,
      start: (step: string) => (step === "restore" ? refuse() : memory.start(step)),
      undone: refuse,
      fail: refuse,
    },
    observe: () => {},
    clock: () => 0,
  };
  await expect(migrate(parts, new AbortController().signal)).rejects.toMatchObject({ name: "Unfinished", cause: expect.any(TakenOver) });
  expect(calls).toEqual(["admit", "reserve", "hold", "freeze", "transfer"]);
});

describe("a migration that nothing disturbs", () => {
  test("passes its steps in order and leaves one live copy, which the clients reach", async () => {
    const world = new World();
    const outcome = await world.migrate();
    expect(outcome).toEqual({ outcome: "succeeded" });
    expect(withoutJournal(world.operations)).toEqual(stepsInOrder);
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("does without pre-copy where there is none", async () => {
    const world = new World();
    world.hasPreCopy = false;
    const outcome = await world.migrate();
    expect(withoutJournal(world.operations)).toEqual(stepsInOrder.filter((step) => step !== "pre-copy"));
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("writes the journal once between freeze and restore: the grant", async () => {
    const journal = openMemoryJournal(createMemoryDisk());
    const calls: string[] = [];
    const writing = (name: string, write: (step: string) => Promise<void>) => async (step: string) => {
      calls.push(`${name} ${step}`);
      await write(step);
    };
    const call = (name: string) => async () => void calls.push(name);
    await migrate(
      {
        ...migrationOf(call),
        journal: { ...journal, start: writing("start", journal.start), done: writing("done", journal.done) },
        observe: () => {},
        clock: () => 0,
      },
      new AbortController().signal,
    );
    expect(calls.slice(calls.indexOf("freeze"), calls.indexOf("forward") + 1)).toEqual([
      "freeze",
      "transfer",
      "start restore",
      "restore",
      "start commit",
      "commit",
      "done commit",
      "start forward-clients",
      "forward",
    ]);
  });

  test("tells its phases in order and each step once", async () => {
    const world = new World();
    await world.migrate();
    expect(world.progress.flatMap((progress) => (progress.kind === "phase" ? [progress.phase] : []))).toEqual([
      "Preflight",
      "PreCopy",
      "Frozen",
      "Transferring",
      "Restoring",
      "CuttingOver",
      "Succeeded",
    ]);
    expect(world.progress.flatMap((progress) => (progress.kind === "step" ? [progress.step] : []))).toEqual(stepsInOrder);
  });

  test("survives an observer that throws", async () => {
    const world = new World();
    world.progress.push = () => {
      throw new Error("the terminal has gone");
    };
    expect(await world.migrate()).toEqual({ outcome: "succeeded" });
  });

  test("says the same again when it is called again after its end", async () => {
    const world = new World();
    await world.migrate();
    const before = world.operations.length;
    expect(await world.migrate()).toEqual({ outcome: "succeeded" });
    expect(world.operations.length).toBe(before);
  });
});

describe.each([true, false])("one disturbance, when the journal buffers what is done: %s", (buffersDone) => {
  const table = stepsInOrder.flatMap((step) =>
    (["before", "after"] as const).flatMap((when) => (["crash", "failure", "cancel"] as const).map((what) => ({ step, when, what }))),
  );
  test.each(table)("$what $when the effect of $step ends with one live copy", async ({ step, when, what }) => {
    const world = new World();
    world.buffersDone = buffersDone;
    world.faults = once(step, { when, what });
    const outcome = await world.migrateToTheEnd();
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
    const isPastCommit = stepsInOrder.indexOf(step) >= stepsInOrder.indexOf("commit");
    expect(outcome.outcome).toBe(isPastCommit ? "succeeded" : "rolledBack");
    if (isPastCommit) expect(world.operations.filter(isUndo)).toEqual([]);
    if (outcome.outcome === "rolledBack") {
      expect(outcome.cause.message).toBe(
        { crash: "the migration was interrupted before its commit", failure: `${step} failed`, cancel: "cancelled" }[what],
      );
    }
    const isRepeated = isPastCommit && what !== "cancel";
    expect(world.operations.filter((operation) => operation === step).length).toBe(isRepeated ? 2 : 1);
  });
});

describe("two disturbances", () => {
  test("at any two operations, journal writes too, end with one live copy", { timeout: 60_000 }, async () => {
    const kinds = (["before", "after"] as const).flatMap((when) =>
      (["crash", "failure", "cancel"] as const).map((what) => ({ when, what })),
    );
    const run = async (faults: Map<number, Fault>) => {
      const world = new World();
      world.faults = (_, index) => faults.get(index);
      const outcome = await world.migrateToTheEnd();
      const broken = world.brokenAtTheEnd(outcome);
      if (broken.length > 0) expect.fail(`${JSON.stringify([...faults])}: ${broken.join("; ")}: ${world.describe()}`);
      return world.operations.length;
    };
    const undisturbed = await run(new Map());
    let runs = 0;
    for (let first = 0; first < undisturbed; first++) {
      for (const firstFault of kinds) {
        const length = await run(new Map([[first, firstFault]]));
        for (let second = first + 1; second < length; second++) {
          for (const secondFault of kinds) {
            await run(new Map([[first, firstFault]]).set(second, secondFault));
            runs++;
          }
        }
      }
    }
    expect(runs).toBeGreaterThan(5_000);
  });

  test.each(undosInOrder.flatMap((undo) => (["before", "after"] as const).map((when) => ({ undo, when }))))(
    "a crash $when the effect of $undo is carried on, and nothing undone is undone again",
    async ({ undo, when }) => {
      const world = new World();
      const first = once("restore", { when: "after", what: "failure" });
      const second = once(undo, { when, what: "crash" });
      world.faults = (operation, index) => first(operation, index) ?? second(operation, index);
      const outcome = await world.migrateToTheEnd();
      expect(world.brokenAtTheEnd(outcome)).toEqual([]);
      expect(outcome).toMatchObject({ outcome: "rolledBack", cause: { message: "restore failed" } });
      const expected = undosInOrder.flatMap((name) => (name === undo ? [name, name] : [name]));
      expect(world.operations.filter(isUndo)).toEqual(expected);
    },
  );
});

describe("an undo that fails", () => {
  test.each(undosInOrder)("of %s stops there, and the next call carries on with it", async (undo) => {
    const world = new World();
    const first = once("restore", { when: "after", what: "failure" });
    const second = once(undo, { when: "before", what: "failure" });
    world.faults = (operation, index) => first(operation, index) ?? second(operation, index);
    await expect(world.migrate()).rejects.toMatchObject({ name: "Unfinished", direction: "back", cause: { message: `${undo} failed` } });
    expect(world.operations.filter(isUndo)).toEqual(undosInOrder.slice(0, undosInOrder.indexOf(undo) + 1));
    const outcome = await world.migrate();
    expect(outcome).toMatchObject({ outcome: "rolledBack", cause: { message: "restore failed" } });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });
});

describe("a destination that can't be reached", () => {
  /** The link breaks at the operation's beginning. */
  function cutAt(name: string): World {
    const world = new World();
    world.faults = (operation) => {
      if (operation === name) world.reachable = false;
      return undefined;
    };
    return world;
  }

  test("before the grant does not keep the service frozen", async () => {
    const world = cutAt("transfer");
    world.faults = ((faults) => (operation: string, index: number) => {
      faults(operation, index);
      return operation === "transfer" ? ({ when: "before", what: "failure" } as const) : undefined;
    })(world.faults);
    await expect(world.migrate()).rejects.toMatchObject({ direction: "back", step: "reserve" });
    expect([world.source, world.traffic]).toEqual(["running", "source"]);
    world.faults = () => undefined;
    world.reachable = true;
    const outcome = await world.migrate();
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("after the grant keeps the service frozen until it answers", async () => {
    const world = cutAt("restore");
    for (let call = 0; call < 3; call++) {
      await expect(world.migrate()).rejects.toMatchObject({ direction: "back", step: "restore" });
      expect([world.source, world.traffic]).toEqual(["frozen", "held"]);
    }
    world.faults = () => undefined;
    world.reachable = true;
    const outcome = await world.migrate();
    expect(outcome).toMatchObject({ outcome: "rolledBack", cause: { message: "the destination does not answer" } });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("at the commit leaves it undecided, and nothing is undone", async () => {
    const world = cutAt("commit");
    for (let call = 0; call < 3; call++) {
      await expect(world.migrate()).rejects.toMatchObject({ direction: "undecided", step: "commit" });
      expect([world.source, world.traffic, world.destination]).toEqual(["frozen", "held", "held"]);
    }
    world.faults = () => undefined;
    world.reachable = true;
    const outcome = await world.migrate();
    expect(outcome).toEqual({ outcome: "succeeded" });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test.each(["crash", "failure"] as const)("whose restore goes on after a %s at the source still ends with one live copy", async (what) => {
    const world = new World();
    world.faults = once("restore", { when: "late", what });
    const outcome = await world.migrateToTheEnd();
    expect(outcome.outcome).toBe("rolledBack");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });
});

describe("a commit that finds the copy gone", () => {
  test.each(["at once", "after a crash"])("%s is undone: the source was whole all the time", async (moment) => {
    const world = new World();
    let crashed = moment === "at once";
    world.faults = (operation) => {
      if (operation !== "commit") return undefined;
      world.destination = "gone";
      const fault = crashed ? undefined : ({ when: "before", what: "crash" } as const);
      crashed = true;
      return fault;
    };
    const outcome = await world.migrateToTheEnd();
    expect(outcome).toMatchObject({ outcome: "rolledBack", cause: { name: "CopyIsGone" } });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("is not undone before that is journalled, lest the next call commits again", async () => {
    const world = new World();
    world.faults = (operation) => {
      if (operation === "commit") world.destination = "gone";
      return operation === "journal fail" ? { when: "before", what: "failure" } : undefined;
    };
    await expect(world.migrate()).rejects.toMatchObject({ direction: "back", step: "rollback" });
    expect(world.source).toBe("frozen");
    world.faults = () => undefined;
    const outcome = await world.migrate();
    expect(outcome.outcome).toBe("rolledBack");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });
});

describe("a journal that can't be written", () => {
  test("does not keep the service frozen, and the rollback ends once it can be", async () => {
    const world = new World();
    let isFull = false;
    world.faults = (operation) => {
      if (operation === "transfer") {
        isFull = true;
        return { when: "before", what: "failure" };
      }
      return isFull && operation.startsWith("journal") ? { when: "before", what: "failure" } : undefined;
    };
    await expect(world.migrate()).rejects.toBeInstanceOf(Unfinished);
    expect([world.source, world.traffic]).toEqual(["running", "source"]);
    isFull = false;
    world.faults = () => undefined;
    const outcome = await world.migrate();
    expect(outcome.outcome).toBe("rolledBack");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("grants nothing", async () => {
    const world = new World();
    world.faults = once("journal start restore", { when: "before", what: "failure" });
    const outcome = await world.migrateToTheEnd();
    expect(world.operations).not.toContain("restore");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });
});

describe("cancelling", () => {
  test("before anything has started touches neither site", async () => {
    const world = new World();
    world.cancel();
    expect(await world.migrate()).toMatchObject({ outcome: "rolledBack", cause: { message: "cancelled" } });
    expect(withoutJournal(world.operations)).toEqual([]);
  });

  test("has no effect once CuttingOver has been told", async () => {
    const world = new World();
    const { push } = world.progress;
    world.progress.push = (...progress) => {
      if (progress.some((one) => one.kind === "phase" && one.phase === "CuttingOver")) world.cancel();
      return push.apply(world.progress, progress);
    };
    expect(await world.migrate()).toEqual({ outcome: "succeeded" });
  });
});

describe("a refusal", () => {
  test("undoes nothing and cleans nothing up, since nothing has been touched", async () => {
    const world = new World();
    world.faults = once("admit", { when: "before", what: "failure" });
    expect(await world.migrate()).toMatchObject({ outcome: "rolledBack", cause: { message: "admit failed" } });
    expect(withoutJournal(world.operations)).toEqual(["admit"]);
  });
});

describe("an interrupted migration", () => {
  test("is undone with Interrupted as its cause, also by later calls", async () => {
    const world = new World();
    world.faults = once("transfer", { when: "before", what: "crash" });
    const outcome = await world.migrateToTheEnd();
    expect(outcome.outcome === "rolledBack" && outcome.cause).toBeInstanceOf(Interrupted);
    expect(await world.migrate()).toEqual(outcome);
  });
});

describe("a person's word that the destination never comes back", () => {
  test.each(["restore", "commit"])("undoes a migration that is stuck at %s, and calls the destination for nothing", async (step) => {
    const world = new World();
    world.faults = (operation) => {
      if (operation === step) world.reachable = false;
      return undefined;
    };
    await expect(world.migrate()).rejects.toBeInstanceOf(Unfinished);
    const before = world.operations.length;
    const outcome = await world.resolveWithoutDestination();
    expect(outcome.outcome).toBe("rolledBack");
    expect(withoutJournal(world.operations.slice(before))).toEqual(["thaw", "release-clients", "discard", "clean-up"]);
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
    if (step === "commit") expect(outcome).toMatchObject({ cause: { name: new DestinationIsGone().name } });
  });

  test.each([
    ["after", "journal fail"],
    ["after", "journal undone restore"],
    ["after", "journal undone reserve"],
    ["before", "thaw"],
  ] as const)("holds for later calls too, after a crash %s %s, whatever the destination says by then", async (when, operation) => {
    const world = new World();
    world.faults = (name) => {
      if (name === "commit") world.reachable = false;
      return name === operation ? { when, what: "crash" } : undefined;
    };
    await expect(world.migrate()).rejects.toBeInstanceOf(Unfinished);
    await expect(world.resolveWithoutDestination()).rejects.toBeInstanceOf(Unfinished);
    world.faults = () => undefined;
    world.reachable = true;
    const before = world.operations.length;
    const outcome = await world.migrateToTheEnd();
    expect(outcome.outcome).toBe("rolledBack");
    expect(world.operations.slice(before)).not.toContain("commit");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("is refused once the journal says that the destination owns the service", async () => {
    const world = new World();
    world.faults = once("forward-clients", { when: "before", what: "failure" });
    await expect(world.migrate()).rejects.toMatchObject({ direction: "forward", step: "forward-clients" });
    await expect(world.resolveWithoutDestination()).rejects.toBeInstanceOf(AlreadyCommitted);
    expect(await world.migrate()).toEqual({ outcome: "succeeded" });
  });
});

describe("a source that has ended while it was frozen", () => {
  const lostAt = (operation: string, world: World) => {
    world.canBeLost = true;
    world.endings = (index) => world.operations[index - 1] === operation;
    return world;
  };

  test("leaves its service to the destination's copy, where the restore's answer did not come", async () => {
    const world = lostAt("restore", new World());
    world.faults = once("restore", { when: "after", what: "failure" });
    const outcome = await world.migrateToTheEnd();
    expect(outcome).toEqual({ outcome: "succeeded" });
    expect(world.operations).not.toContain("destroy-restored");
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("is restored after a link that was cut between the grant and the restore", async () => {
    const world = lostAt("restore", new World());
    let asked = 0;
    world.faults = (operation) => {
      if (operation === "restore") world.reachable = ++asked > 3;
      return undefined;
    };
    const outcome = await world.migrateToTheEnd();
    expect(outcome).toEqual({ outcome: "succeeded" });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("goes forward also where its user has cancelled meanwhile, and where the coordinator has crashed", async () => {
    for (const what of ["cancel", "crash"] as const) {
      const world = lostAt("restore", new World());
      world.faults = once("restore", { when: "after", what });
      const outcome = await world.migrateToTheEnd();
      expect(outcome).toEqual({ outcome: "succeeded" });
      expect(world.brokenAtTheEnd(outcome)).toEqual([]);
    }
  });

  test("is undone, and started afresh, where the destination has no copy either", async () => {
    const world = lostAt("restore", new World());
    world.faults = (operation) => {
      if (operation === "restore") world.refusesForGood = true;
      return undefined;
    };
    const outcome = await world.migrateToTheEnd();
    expect(outcome).toMatchObject({ outcome: "rolledBack" });
    expect(world.brokenAtTheEnd(outcome)).toEqual([]);
  });

  test("before the grant is undone at once", async () => {
    const world = lostAt("transfer", new World());
    world.faults = once("transfer", { when: "after", what: "failure" });
    const outcome = await world.migrateToTheEnd();
    expect(outcome).toMatchObject({ outcome: "rolledBack" });
    expect(world.operations).not.toContain("is-lost");
  });
});
