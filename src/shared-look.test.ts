import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { sharedLook } from "./shared-look.ts";

test("those who ask while a look is under way share the next, which begins after they asked", async () => {
  const gates: PromiseWithResolvers<void>[] = [];
  const look = sharedLook(async () => {
    const gate = Promise.withResolvers<void>();
    const at = gates.push(gate);
    await gate.promise;
    return at;
  });
  const first = look();
  await turn();
  const later = [look(), look(), look()];
  await turn();
  expect(gates).toHaveLength(1);
  gates[0]!.resolve();
  expect(await first).toBe(1);
  await turn();
  expect(gates).toHaveLength(2);
  gates[1]!.resolve();
  expect(await Promise.all(later)).toEqual([2, 2, 2]);
});

test("a look that fails keeps no other from being taken", async () => {
  let looks = 0;
  const look = sharedLook(async () => {
    if (++looks === 1) throw new Error("the API server is away");
    return looks;
  });
  await expect(look()).rejects.toThrow("away");
  expect(await look()).toBe(2);
});
