/** What strangers in numbers do to two sites that are paired: nothing. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { atBreakpoint, breakpointFile, clearBreakpoint, moved, setBreakpoint, settled } from "./disturbance.ts";
import { imageReference } from "./images.ts";
import type { Place } from "./place.ts";
import { startRedis } from "./redis.ts";
import { createSites, sitePort, type Sites, type TestSite } from "./sites.ts";
import { comeInNumbers } from "./stranger.ts";

let sites: Sites;
let a: TestSite;
let b: TestSite;
beforeAll(async () => {
  sites = await createSites({ configuration: { breakpointFile } });
  ({ a, b } = sites);
});
afterAll(() => sites[Symbol.asyncDispose]());

async function startServices() {
  await startRedis(a.host, { memoryMiB: 64 });
  await a.host.podman(["run", "--detach", "--name", "shop", imageReference("redis"), "sleep", "infinity"]);
}

async function removeServices() {
  for (const { migration } of await a.json<{ migration: string }[]>(["release"])) await a.ums(["release", migration]);
  for (const { host } of [a, b]) await host.podman(["rm", "--force", "--ignore", "--time", "0", "redis", "shop"]);
}

test.each<[string, () => Place, number]>([
  ["an address of their own", () => sites.hosts.wan, 500],
  // As from behind one router: until its handshake nothing tells a site from its neighbours.
  ["the other site's address", () => a.host, 200],
])("10,000 idle connections from %s leave a migration that is under way and a new one undisturbed", async (_, place, perSecond) => {
  await startServices();
  setBreakpoint(a.host, "pre-copy", "after");
  const { id } = await a.json<Migration>(["migrate", "redis", "--to", b.name, "--detach"]);
  await atBreakpoint(a, id, "pre-copy", "after");

  const stranger = await comeInNumbers(place(), { host: b.host.address, port: sitePort, count: 10_000, perSecond });
  clearBreakpoint(a.host);
  const running = await settled(sites, id);
  expect(running).toMatchObject({ phase: "Succeeded" });
  const fresh = await moved(a, b, "shop");
  // The stranger's own work takes a part of the machine, too: what only a hang exceeds.
  for (const { heldMs } of [running, fresh]) expect(heldMs).toBeLessThan(30_000);
  for (let round = 0; round < 5; round++) {
    const told = await a.json<{ name: string; reachable: boolean }[]>(["sites"]);
    expect(told).toMatchObject([{ name: b.name, reachable: true }]);
  }

  expect(await stranger.waitForLine(/ open, /)).toBeTruthy();
  stranger.kill("SIGKILL");
  await stranger.exited;
  await removeServices();
});
