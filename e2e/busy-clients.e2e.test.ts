/** What clients of a busy service meet while it moves between two hosts. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { complaints } from "./busy-client.ts";
import { type BusyService, createBusyService } from "./busy-service.ts";
import { atBreakpoint, clearBreakpoint, setBreakpoint, settled } from "./disturbance.ts";

const hops = 6;
let busy: BusyService;
beforeAll(async () => void (busy = await createBusyService()));
afterAll(() => busy[Symbol.asyncDispose]());

test(`in ${hops} hops there and back no client of a busy service fails, hangs, or has to try again`, async () => {
  expect(complaints(await busy.crowd.look(0))).toEqual([]);
  for (let hop = 0; hop < hops; hop++) expect(complaints(await busy.hop())).toEqual([]);
  expect(busy.late()).toEqual([]);
});

test("those that wait for a migration which is undone after a hold of 4 s are served by the source, and none is refused", async () => {
  const { a, b } = busy.sites;
  expect(complaints(await busy.crowd.look(0))).toEqual([]);
  setBreakpoint(a.host, "freeze", "after");
  const { id } = await a.json<Migration>(["migrate", "greet", "--to", b.name, "--detach"]);
  await atBreakpoint(a, id, "freeze", "after");
  await sleep(4_000);
  await a.ums(["cancel", id]);
  clearBreakpoint(a.host);
  const { phase, heldMs = 0 } = await settled(busy.sites, id);
  expect({ phase, isLong: heldMs > 4_000 }).toEqual({ phase: "RolledBack", isLong: true });
  expect(complaints(await busy.crowd.look(heldMs))).toEqual([]);
});
