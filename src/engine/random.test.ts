import fc from "fast-check";
import { expect, test } from "vitest";
import type { Outcome } from "./migrate.ts";
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
/** By the index of the operation: where the source's platform ends a copy that is frozen. */
const endings = fc.array(fc.nat(60), { maxLength: 3 });
const linkChanges = fc.array(fc.tuple(fc.nat(60), fc.boolean()), { maxLength: 6 });

test(
  "however often a migration crashes, fails, is cancelled or loses its link, it ends with one live copy",
  { timeout: 60_000 },
  async () => {
    const ends: Record<string, number> = {};
    await fc.assert(
      fc.asyncProperty(
        disturbances,
        linkChanges,
        endings,
        fc.boolean(),
        fc.boolean(),
        async (faults, links, ended, buffersDone, hasPreCopy) => {
          const world = new World();
          world.canBeLost = ended.length > 0;
          world.endings = (index) => ended.includes(index);
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
        },
      ),
      { numRuns: 3_000 },
    );
    expect(ends["succeeded"]).toBeGreaterThan(10);
    expect(ends["rolledBack"]).toBeGreaterThan(10);
  },
);

test(
  "a person's word that the destination is gone, given at any moment, leaves one copy that the clients reach",
  { timeout: 60_000 },
  async () => {
    const ends: Record<string, number> = {};
    await fc.assert(
      fc.asyncProperty(disturbances, linkChanges, fc.infiniteStream(fc.boolean()), async (faults, links, words) => {
        const world = new World();
        const faultAt = new Map(faults);
        const linkAt = new Map(links);
        world.faults = (_, index) => {
          world.reachable = !world.givenUp && (linkAt.get(index) ?? world.reachable);
          const fault = faultAt.get(index);
          return fault?.when === "late" ? { ...fault, when: "after" } : fault;
        };
        let outcome: Outcome | undefined;
        for (const givesWord of words) {
          try {
            outcome = givesWord ? await world.resolveWithoutDestination() : await world.migrate();
            break;
          } catch (error) {
            if (world.operations.length > 1_000) throw error;
          }
        }
        ends[outcome!.outcome] = (ends[outcome!.outcome] ?? 0) + 1;
        expect(world.brokenAtTheEnd(outcome!)).toEqual([]);
      }),
      { numRuns: 2_000 },
    );
    expect(ends["succeeded"]).toBeGreaterThan(10);
    expect(ends["rolledBack"]).toBeGreaterThan(10);
  },
);
