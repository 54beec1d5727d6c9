/** Half a minute of what `npm run soak -- fuzz` does for longer. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { createFuzzing, type Fuzzing } from "./fuzzing.ts";

let fuzzing: Fuzzing;
beforeAll(async () => {
  fuzzing = await createFuzzing();
});
afterAll(() => fuzzing[Symbol.asyncDispose]());

const inputs = Number.MAX_SAFE_INTEGER;
/** Another one each time; a failure tells it. */
const seed = Math.floor(Math.random() * 2 ** 30);

test("a peer's requests of any kind are answered, and leave nothing", async () => {
  const report = await fuzzing.run("requests", { seed, inputs, forMs: 10_000 });
  expect(report.inputs).toBeGreaterThan(500);
});

test("a peer's data connection of any kind ends by itself, and leaves nothing", async () => {
  const report = await fuzzing.run("frames", { seed, inputs, forMs: 10_000 });
  expect(report.inputs).toBeGreaterThan(100);
  // No word of this host's own.
  expect(Object.keys(report.outcomes).filter((outcome) => outcome.includes("/var/"))).toEqual([]);
});

test("a destination's answers of any kind end a migration, and nothing else", async () => {
  const report = await fuzzing.run("answers", { seed, inputs, forMs: 10_000 });
  expect(report.inputs).toBeGreaterThan(10);
});

test("after all that, services move as before", () => fuzzing.expectWell());
