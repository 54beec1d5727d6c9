/** What a destination can say to a source: whatever it is, the service goes on, and nothing of it gets into the source's rules. */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { impatient } from "./disturbance.ts";
import { playHostile, type Script } from "./hostile-site.ts";
import type { RunningProcess } from "./place.ts";
import { startRedis } from "./redis.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

let sites: Sites;
let a: TestSite;
let b: TestSite;
let hostile: RunningProcess | undefined;
/** Tells each rule that is made, also one that goes again. */
let monitor: RunningProcess;
let rules: string;
let servePid: number;

const rulesOf = async (site: TestSite) => (await site.host.exec(["nft", "--stateless", "list", "ruleset"])).stdout;

beforeAll(async () => {
  sites = await createSites({ configuration: impatient });
  ({ a, b } = sites);
  await startRedis(a.host, { memoryMiB: 1 });
  await b.stop();
  rules = await rulesOf(a);
  servePid = a.serve().pid;
});
afterAll(() => sites[Symbol.asyncDispose]());
beforeEach(async () => {
  monitor = await a.host.spawn(["nft", "monitor"]);
});
afterEach(async () => {
  for (const process of [hostile, monitor]) {
    process?.kill("SIGKILL");
    await process?.exited;
  }
  hostile = undefined;
});

/** It restores nothing, so that the service stays where it is also where an answer has been believed. */
const refusal = { status: 502, body: { code: "RESTORE_FAILED", message: "It could not be restored." } };

const migrate = async (script: Script): Promise<Migration> => {
  hostile = await playHostile(b, a, { restore: refusal, ...script });
  return await a.json<Migration>(["migrate", "redis", "--to", b.name]);
};

/** The service runs at the source, as if nobody had tried to move it. */
async function expectUntouched(): Promise<void> {
  expect((await a.host.podman(["exec", "redis", "redis-cli", "ping"])).stdout).toBe("PONG");
  expect((await a.host.podman(["ps", "--format", "{{.Names}} {{.Status}}"])).stdout).toMatch(/^redis Up [^(]*$/);
  expect(a.serve().pid).toBe(servePid);
  expect((await a.ums(["status"])).exitCode).toBe(0);
  await expect.poll(() => rulesOf(a)).toBe(rules);
}

/** Addresses to which rules have led somebody since the test began. */
const ledTo = () => [...new Set([...monitor.output().matchAll(/dnat to ([0-9.]+)/g)].map(([, address]) => address))];

const script = `6379
 }
}
table ip stolen {
 chain everything {
  type nat hook prerouting priority -99;
  tcp dport 22 dnat to 10.231.0.12:2222
 }
}
table ip more {
 chain rest {
 `;

test.each<[string, Script]>([
  ["a check that is text", { check: { text: "all is well" } }],
  ["a check that is a list", { check: { body: [] } }],
  ["checks that are no checks", { check: { body: { checks: [{ name: "room", ok: "yes" }], imageBytes: 0 } } }],
  ["a size that is none", { check: { body: { checks: [], imageBytes: "-1; reboot" } } }],
  ["no answer to the reservation", { reserve: { status: 204, text: "" } }],
  ["layers that are none", { reserve: { body: { layers: ["sha256:../../../etc/shadow"] } } }],
  ["a reservation with more than it may have", { reserve: { body: { layers: [], hook: "/bin/sh" } } }],
  ["a place that is a number", { create: { body: 7 } }],
  ["a port for the data that is a script", { create: { body: { data: { token: `127.0.0.1/${"0".repeat(32)}`, port: script } } } }],
  ["an address for the data that is none", { create: { body: { data: { token: `evil.example/${"0".repeat(32)}`, port: 22 } } } }],
  ["a data connection with words of no form", { data: "this is not JSON\n" }],
  ["a data connection with a reply that is null", { data: "null\n" }],
  ["a data connection with a word without an end", { data: "x".repeat(100_000) }],
  ["ports with rules of the firewall in them", { arm: { body: { ports: { "6379": script, "6379/tcp": script } } } }],
  ["a port's name with rules of the firewall in it", { arm: { body: { ports: { [`6379/tcp${script}`]: 6379 } } } }],
  ["a port that is none", { arm: { body: { ports: { "6379": 70_000, "6379/tcp": 70_000 } } } }],
  ["another address", { arm: { body: { address: "169.254.169.254", ports: { "6379": 80, "6379/tcp": 80 } } } }],
  ["a restore that is a list", { restore: { body: [] } }],
  ["a restore that is text", { restore: { text: "<html>" } }],
])("%s ends the migration, and nothing else", async (_what, hostileScript) => {
  const { phase, error } = await migrate(hostileScript);
  expect(ledTo().filter((address) => address !== b.host.address)).toEqual([]);
  expect(monitor.output()).not.toContain("stolen");
  await expectUntouched();
  expect(phase).toMatch(/^(Failed|RolledBack)$/);
  expect(error?.code).toBe("PEER_FAILED");
  expect(error?.message).toMatch(/not of the documented form|not JSON|could not store what was sent/);
});

test("whatever a destination says of its ports, clients are led to where it has proved who it is, and nowhere else", async () => {
  const arm = { body: { ports: { "6379/tcp": 80 }, podAddress: "169.254.169.254" } };
  const { error } = await migrate({ arm });
  expect(error?.code).toBe("RESTORE_FAILED");
  expect(ledTo()).toEqual([b.host.address]);
  await expectUntouched();
});

test.each<[string, object]>([
  ["text", { text: "committed!" }],
  ["a list", { body: [] }],
  ["a status of 500", { status: 500, text: "\u0000" }],
])("a commit that is answered by %s is none: the source asks on, and keeps its copy", async (_what, garbage) => {
  const gone = { status: 409, body: { code: "COPY_IS_GONE", message: "There is no copy." } };
  hostile = await playHostile(b, a, { commit: [garbage, garbage, gone] });
  const { id } = await a.json<Migration>(["migrate", "redis", "--to", b.name, "--detach"]);
  const look = () => a.json<Migration>(["status", id]);
  await expect.poll(async () => (await look()).waiting ?? "", { interval: 50 }).toMatch(/commit|frozen/i);
  expect((await a.host.podman(["ps", "--all", "--format", "{{.Names}} {{.Status}}"])).stdout).toBe("redis Paused");
  await expect.poll(async () => (await look()).phase, { timeout: 30_000 }).toBe("RolledBack");
  expect((await look()).error?.code).toBe("COPY_IS_GONE");
  await expectUntouched();
});

test("a reservation that can't be given up keeps no service from running", async () => {
  const isFree = async () => (await a.host.podman(["exec", "redis", "redis-cli", "ping"])).stdout === "PONG";
  hostile = await playHostile(b, a, { create: { body: 7 }, release: [{ text: "no" }, { status: 500, text: "" }, { body: {} }] });
  const { id } = await a.json<Migration>(["migrate", "redis", "--to", b.name, "--detach"]);
  for (let time = 0; time < 5; time++, await sleep(100)) expect(await isFree()).toBe(true);
  await expect.poll(async () => (await a.json<Migration>(["status", id])).phase, { timeout: 30_000 }).toBe("RolledBack");
  await expectUntouched();
});
