import fc from "fast-check";
import { expect, test } from "vitest";
import { type Fault, World } from "./model-world.ts";

const fault = fc.record({
  when: fc.constantFrom("before" as const, "after" as const),
  what: fc.constantFrom("crash" as const, "failure" as const, "cancel" as const),
});
const late: fc.Arbitrary<Fault> = fc.record({
  when: fc.constant("late" as const),
  what: fc.constantFrom("crash" as const, "failure" as const),
});
/** Only the destination can go on with a request whose sender has died or has lost patience. */
const canBeLate = ["reserve", "restore", "commit"];

/** By the index of the operation: what goes wrong with it, and whether the link is up from there on. */
const disturbances = fc.array(fc.tuple(fc.nat(60), fc.oneof({ weight: 6, arbitrary: fault }, { weight: 1, arbitrary: late })), {
  maxLength: 12,
});
const linkChanges = fc.array(fc.tuple(fc.nat(60), fc.boolean()), { maxLength: 6 });

test("however often a migration crashes, fails, is cancelled or loses its link, it ends with one live copy", async () => {
  const ends: Record<string, number> = {};
  await fc.assert(
    fc.asyncProperty(disturbances, linkChanges, fc.boolean(), fc.boolean(), async (faults, links, buffersDone, hasPreCopy) => {
      const world = new World();
      world.buffersDone = buffersDone;
      world.hasPreCopy = hasPreCopy;
      const faultAt = new Map(faults);
      const linkAt = new Map(links);
      world.faults = (operation, index) => {
        world.reachable = linkAt.get(index) ?? (index > 60 || world.reachable);
        const fault = faultAt.get(index);
        return fault?.when === "late" && !canBeLate.includes(operation) ? { ...fault, when: "after" } : fault;
      };
      const outcome = await world.migrateToTheEnd(80);
      ends[outcome.outcome] = (ends[outcome.outcome] ?? 0) + 1;
      expect(world.brokenAtTheEnd(outcome)).toEqual([]);
    }),
    { numRuns: 3_000 },
  );
  expect(ends["succeeded"]).toBeGreaterThan(10);
  expect(ends["rolledBack"]).toBeGreaterThan(10);
});
