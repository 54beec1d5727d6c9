/**
 * The main job on real input: a Redis in a Podman container moves from one host to another and back, while a client
 * writes to it all the time at one address. `--json` adds a last line with the figures of the move there.
 */
import { parseArgs } from "node:util";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { setUp } from "../setup/setup.ts";
import { type ClientSummary, startClient } from "./client.ts";
import { redisPort, startRedis } from "./redis.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

const { values: options } = parseArgs({
  options: { json: { type: "boolean", default: false }, memory: { type: "string", default: "256" } },
});
const memoryMiB = Number(options.memory);
const startedAt = performance.now();
const say = (text: string) => console.log(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s  ${text}`);

/** Moves the service and says what its client met. */
async function move(sites: Sites, from: TestSite, to: TestSite): Promise<{ migration: Migration; client: ClientSummary }> {
  const client = await startClient(sites.hosts.wan, { host: sites.a.host.address, port: redisPort });
  await new Promise((resolve) => setTimeout(resolve, 500));
  const migration = await from.json<Migration>(["migrate", "redis", "--to", to.name]);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const met = await client.stop();
  if (migration.phase !== "Succeeded") throw new Error(`The migration ended as ${migration.phase}: ${migration.error?.message}`);
  const phases = Object.entries(migration.phases).map(([phase, ms]) => `${phase} ${Math.round(ms)}`);
  say(
    `redis is on ${to.name}: its client waited ${Math.round(met.downtimeMs)} ms, of ${Math.round(migration.totalMs ?? 0)} ms in all (${phases.join(", ")})`,
  );
  say(
    `  ${met.acknowledgedWrites} writes were acknowledged and ${met.lostWrites} of them are lost; ` +
      `${met.cutConnections} connection(s) reset, ${met.failedConnections} refused or timed out`,
  );
  return { migration, client: met };
}

say("Setting up: packages, CRIU, the bundle");
await setUp();
say("Making two hosts, each with Podman and `ums serve`, and pairing them");
await using sites = await createSites();
const { a, b } = sites;
say(`Starting a Redis with ${memoryMiB} MiB on ${a.name}; a client writes every 5 ms to ${a.host.address}:${redisPort} from now on`);
await startRedis(a.host, { memoryMiB });
const there = await move(sites, a, b);
const back = await move(sites, b, a);

const failed = [there, back].filter(
  ({ client }) => client.lostWrites + client.failedConnections + client.wrongReplies + client.duplicatedWrites > 0,
);
if (failed.length > 0) process.exitCode = 1;
if (options.json) {
  const { migration, client } = there;
  console.log(
    JSON.stringify({
      service: migration.service,
      memoryBytes: migration.memoryBytes,
      downtimeMs: Math.round(client.downtimeMs),
      totalMs: Math.round(migration.totalMs ?? 0),
      acknowledgedWrites: client.acknowledgedWrites,
      lostWrites: client.lostWrites,
      failedConnections: client.failedConnections,
      cutConnections: client.cutConnections,
      phases: migration.phases,
    }),
  );
}
