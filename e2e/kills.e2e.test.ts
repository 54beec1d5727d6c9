import { afterAll, beforeAll, expect, test } from "vitest";
import { createGround, type Ground, nameOf, onePerStep } from "./disturbance.ts";

let ground: Ground | undefined;

beforeAll(async () => {
  ground = await createGround();
});
afterAll(() => ground?.[Symbol.asyncDispose]());

test.each(onePerStep.map((which) => [nameOf(which), which] as const))(
  "a migration that loses %s ends by itself: one copy, every write, nothing left behind",
  async (_, which) => {
    ground ??= await createGround();
    try {
      expect(await ground.tryCase(which)).toMatchObject({ disturbed: true });
    } catch (cause) {
      // The hosts may hold anything now: the next case gets new ones.
      await ground[Symbol.asyncDispose]();
      ground = undefined;
      throw cause;
    }
  },
);
