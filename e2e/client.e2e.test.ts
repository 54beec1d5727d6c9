import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { lineFrom, startClient } from "./client.ts";
import { createHosts, type Host, type Hosts } from "./hosts.ts";
import { loadImage } from "./images.ts";

let hosts: Hosts;
let host: Host;
let target: { host: string; port: number };

beforeAll(async () => {
  hosts = await createHosts();
  host = hosts.hosts[0];
  target = { host: host.address, port: 6379 };
  await loadImage(host);
});
afterAll(() => hosts[Symbol.asyncDispose]());

beforeEach(async () => {
  await host.podman(["rm", "--force", "--all", "--time", "0"]);
  await host.podman(["volume", "prune", "--force"]);
  const image = await loadImage(host);
  await host.podman(["run", "--detach", "--name", "redis", "--volume", "data:/var/lib/redis", "--publish", "6379:6379", image]);
});

const redis = (...command: string[]) => host.podman(["exec", "redis", "redis-cli", ...command]);

test("a service that nothing happens to loses nothing", async () => {
  const client = await startClient(hosts.wan, target);
  await expect.poll(() => client.verify().then((summary) => summary.acknowledgedWrites)).toBeGreaterThan(20);
  const summary = await client.stop();
  expect(summary).toMatchObject({ lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0, failedConnections: 0, cutConnections: 0 });
});

test("a service that comes back from an older image has lost writes", async () => {
  const client = await startClient(hosts.wan, target);
  await redis("save");
  const { acknowledgedWrites } = await client.verify();
  await expect.poll(() => client.verify().then((summary) => summary.acknowledgedWrites)).toBeGreaterThan(acknowledgedWrites + 20);
  await host.podman(["kill", "--signal", "KILL", "redis"]);
  await host.podman(["start", "redis"]);
  await expect.poll(() => client.output(), { timeout: 15_000 }).toMatch(/cut-connection[^]*"connected"/);
  await expect.poll(() => client.verify().then((summary) => summary.wrongReplies), { timeout: 15_000 }).toBeGreaterThan(0);
  const summary = await client.stop();
  expect(summary.lostWrites).toBeGreaterThan(0);
  expect(summary.cutConnections).toBeGreaterThan(0);
  expect(summary.failedConnections).toBeGreaterThan(0);
});

test("a pause shows as downtime, and loses nothing", async () => {
  const client = await startClient(hosts.wan, target);
  await host.podman(["pause", "redis"]);
  const pausedAt = Date.now();
  await new Promise((resolve) => setTimeout(resolve, 500));
  await host.podman(["unpause", "redis"]);
  const { downtimeMs, downtimeFrom, lostWrites, cutConnections } = await client.stop();
  expect(downtimeMs).toBeGreaterThanOrEqual(500);
  expect(downtimeMs).toBeLessThan(1500);
  expect(Math.abs(downtimeFrom - pausedAt)).toBeLessThan(500);
  expect({ lostWrites, cutConnections }).toEqual({ lostWrites: 0, cutConnections: 0 });
});

test("a write that is repeated behind the client's back is found", async () => {
  const client = await startClient(hosts.wan, target);
  const { stdout: key } = await redis("keys", "ums-client-*");
  await redis("rpush", key.trim(), "1");
  const summary = await client.stop();
  expect(summary.duplicatedWrites).toBe(1);
});

test("a port where nobody listens fails at once", async () => {
  await expect(lineFrom(hosts.wan, { host: host.address, port: 1 })).rejects.toThrow("ECONNREFUSED");
});
