/** A demo: a Redis moves there and back while a client writes to it at one address; what the client met is told. */
import { parseArgs } from "node:util";
import type { Migration } from "../src/apps/coordinator/schema.ts";
import { type ClientSummary, startClient } from "./client.ts";
import type { Place } from "./place.ts";

/** What is shown: a service that runs, where its client is, and its moves in order. */
export type Scene = AsyncDisposable &
  Readonly<{
    clientAt: Place;
    host: string;
    port: number;
    moves: readonly Readonly<{ to: string; move(): Promise<Migration> }>[];
  }>;

/** Reads the command line, sets the scene, and ends with 1 where a client lost something. */
export async function demonstrate(set: (tools: { say: (text: string) => void; memoryMiB: number }) => Promise<Scene>): Promise<void> {
  const { values: options } = parseArgs({
    options: { json: { type: "boolean", default: false }, memory: { type: "string", default: "256" } },
  });
  const startedAt = performance.now();
  const say = (text: string): void => console.log(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s  ${text}`);
  await using scene = await set({ say, memoryMiB: Number(options.memory) });

  const shown: { migration: Migration; met: ClientSummary }[] = [];
  for (const { to, move } of scene.moves) {
    const client = await startClient(scene.clientAt, scene);
    await pause();
    const migration = await move();
    await pause();
    const met = await client.stop();
    shown.push({ migration, met });
    const phases = Object.entries(migration.phases).map(([phase, ms]) => `${phase} ${Math.round(ms)}`);
    say(
      `redis is on ${to}: its client waited ${Math.round(met.downtimeMs)} ms, of ${Math.round(migration.totalMs ?? 0)} ms in all (${phases.join(", ")})`,
    );
    say(
      `  ${met.acknowledgedWrites} writes were acknowledged and ${met.lostWrites} of them are lost; ` +
        `${met.cutConnections} connection(s) reset, ${met.failedConnections} refused or timed out`,
    );
  }

  const troubles = shown.map(({ met }) => met.lostWrites + met.failedConnections + met.wrongReplies + met.duplicatedWrites);
  if (troubles.some((count) => count > 0)) process.exitCode = 1;
  const [first] = shown;
  if (!options.json || !first) return;
  const { migration, met } = first;
  console.log(
    JSON.stringify({
      service: migration.service,
      memoryBytes: migration.memoryBytes,
      downtimeMs: Math.round(met.downtimeMs),
      totalMs: Math.round(migration.totalMs ?? 0),
      acknowledgedWrites: met.acknowledgedWrites,
      lostWrites: met.lostWrites,
      failedConnections: met.failedConnections,
      cutConnections: met.cutConnections,
      phases: migration.phases,
    }),
  );
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 500));
