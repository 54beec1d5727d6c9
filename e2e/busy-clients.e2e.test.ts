/** What clients of a busy service meet while it moves between two hosts. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { type Attempts, type BusyClient, type Flow, startBusyClient, startUdpFlow } from "./busy-client.ts";
import { atBreakpoint, clearBreakpoint, impatient, moved, setBreakpoint, settled } from "./disturbance.ts";
import { imageReference } from "./images.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

const hops = 6;
const [tcpPort, udpPort] = [18_077, 18_078];
/** What a client's own work, and this machine's, may add to the hold. */
const graceMs = 1_000;

let sites: Sites;
let a: TestSite;
let b: TestSite;
let flow: BusyClient<Flow>;
const clients = new Map<string, BusyClient<Attempts>>();

beforeAll(async () => {
  sites = await createSites({ images: ["services"], configuration: impatient });
  ({ a, b } = sites);
  const publish = ["--publish", `${tcpPort}:8080`, "--publish", `${udpPort}:8081/udp`];
  await a.host.podman(["run", "--detach", "--name", "greet", ...publish, imageReference("services"), "python3", "-u", "/srv/greet.py"]);
  const target = { host: a.host.address, port: tcpPort };
  clients.set("from the wan", await startBusyClient(sites.hosts.wan, target));
  clients.set("from the host itself", await startBusyClient(a.host, { ...target, workers: 2 }));
  flow = await startUdpFlow(sites.hosts.wan, { host: a.host.address, port: udpPort });
  await sleep(1_000);
});
afterAll(() => sites[Symbol.asyncDispose]());

/** @param heldMs for which they may have had to wait */
async function expectServed(heldMs: number): Promise<void> {
  await sleep(1_500);
  for (const [which, client] of clients) {
    const { succeeded, failures, ...slowest } = await client.report();
    expect({ which, failures }).toEqual({ which, failures: [] });
    expect(succeeded).toBeGreaterThan(20);
    expect(slowest.slowestMs, `${which}: ${JSON.stringify(slowest)}, held for ${heldMs}`).toBeLessThan(heldMs + graceMs);
  }
  const { longestGapMs, sinceLastAnswerMs } = await flow.report();
  expect(longestGapMs).toBeLessThan(heldMs + graceMs);
  expect(sinceLastAnswerMs).toBeLessThan(500);
}

/** Connections that found the hold already there, and no waiting place: their clients had to try again. */
const late = ({ host, serve }: TestSite) =>
  serve()
    .output()
    .split("\n")
    .filter((line) => line.includes("could not be held"))
    .map((line) => `${host.name}: ${line}`);

test(`in ${hops} hops there and back no client of a busy service fails, hangs, or has to try again`, async () => {
  await expectServed(0);
  for (let hop = 0; hop < hops; hop++) {
    const [from, to] = hop % 2 === 0 ? [a, b] : [b, a];
    const { heldMs } = await moved(from, to, "greet");
    await expectServed(heldMs ?? 0);
  }
  expect([...late(a), ...late(b)]).toEqual([]);
}, 120_000);

test("those that wait for a migration which is undone after a hold of 4 s are served by the source, and none is refused", async () => {
  await expectServed(0);
  setBreakpoint(a.host, "freeze", "after");
  const { id } = await a.json<Migration>(["migrate", "greet", "--to", b.name, "--detach"]);
  await atBreakpoint(a, id, "freeze", "after");
  await sleep(4_000);
  await a.ums(["cancel", id]);
  clearBreakpoint(a.host);
  const { phase, heldMs = 0 } = await settled(sites, id);
  expect({ phase, isLong: heldMs > 4_000 }).toEqual({ phase: "RolledBack", isLong: true });
  await expectServed(heldMs);
});
