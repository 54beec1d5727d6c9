/**
 * The long test: every step × both moments × every victim, round trips, many migrations at once, and clients that never pause.
 *
 *     npm run soak                          all of it
 *     npm run soak -- matrix "the link"     the cases whose names contain the words
 *     npm run soak -- steps | trips | crowd | clients
 *     npm run soak -- fuzz 1000000 0        so many inputs of any kind, of which so many have been tried before
 *     npm run soak -- files 1000000         a service with so many files
 */
import { setUp } from "../setup/setup.ts";
import { complaints, slowest } from "./busy-client.ts";
import { type BusyService, createBusyService } from "./busy-service.ts";
import { buildImages } from "./images.ts";
import { createFuzzing, type Fuzzing, kindsOfInput } from "./fuzzing.ts";
import { moveManyFiles } from "./many-files.ts";
import { createGround, type Ground, moments, onePerStep, moved, nameOf, steps, type Tried, victims } from "./disturbance.ts";

const [part = "all", ...words] = process.argv.slice(2);
const trips = 20;
const hops = 20;
const mostFailures = 5;
const fuzzRound = { inputs: 50_000, forMs: 60_000 };
let passed = 0;
let failed = 0;
let skipped = 0;

/** Counts and tells one attempt. @returns whether it has not failed */
async function tell(name: string, action: () => Promise<string | Tried>): Promise<boolean> {
  const startedAt = performance.now();
  const say = (mark: string, text: string) =>
    console.log(`${mark} ${name}: ${text} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
  try {
    const result = await action();
    if (typeof result === "object" && !result.disturbed) {
      skipped++;
      say("skipped", `${result.outcome}, nothing to kill at this step`);
    } else {
      passed++;
      say("ok     ", typeof result === "object" ? result.outcome : result);
    }
    return true;
  } catch (error) {
    failed++;
    say("FAILED ", error instanceof Error ? error.message : String(error));
    return false;
  }
}

let ground: Ground | undefined;
async function leaveGround(): Promise<void> {
  await ground?.[Symbol.asyncDispose]();
  ground = undefined;
}

/** After a failure hosts may hold anything, so the next case gets new ones. */
async function attempt(name: string, action: (ground: Ground) => Promise<string | Tried>): Promise<void> {
  const isGood = await tell(name, async () => {
    ground ??= await createGround({ configuration: { maxConcurrentMigrations: 3 } });
    return await action(ground);
  });
  if (!isGood) await leaveGround();
}

/** @throws Error naming what a client has met that none should meet */
async function hopServed(busy: BusyService): Promise<string> {
  const met = await busy.hop();
  const wrong = [...complaints(met), ...busy.late()];
  if (wrong.length > 0) throw new Error(wrong.join("\n  "));
  return slowest(met);
}

/** In rounds, each with its own seed: who stops it can go on where it was. */
async function fuzzAll(inputs: number, tried: number): Promise<void> {
  let fuzzing: Fuzzing | undefined;
  let failures = 0;
  for (let round = tried, done = tried; done < inputs && failures < mostFailures;) {
    for (const what of kindsOfInput) {
      const isGood = await tell(`inputs from ${done} on, ${what}`, async () => {
        fuzzing ??= await createFuzzing();
        const {
          inputs: given,
          slowestMs,
          outcomes,
        } = await fuzzing.run(what, { seed: round, ...fuzzRound, inputs: Math.min(fuzzRound.inputs, inputs - done) });
        done += given;
        await fuzzing.expectWell();
        const often = Object.entries(outcomes).toSorted(([, one], [, other]) => other - one);
        return `${given} given, ${slowestMs.toFixed()} ms at most; ${often.map(([outcome, times]) => `${outcome.trim()} ${times}`).join(", ")}`;
      });
      round++;
      if (isGood) continue;
      failures++;
      await fuzzing?.[Symbol.asyncDispose]();
      fuzzing = undefined;
    }
  }
  await fuzzing?.[Symbol.asyncDispose]();
}

await setUp();
await buildImages(["redis", "services"]);

if (part === "all" || part === "matrix") {
  for (const step of steps)
    for (const moment of moments)
      for (const victim of victims) {
        const name = nameOf({ step, moment, victim });
        if (words.every((word) => name.includes(word))) await attempt(name, (on) => on.tryCase({ step, moment, victim }));
      }
}

if (part === "steps") for (const each of onePerStep) await attempt(nameOf(each), (on) => on.tryCase(each));

if (part === "all" || part === "trips") {
  await attempt(`${trips} times there and back`, async (on) => {
    const { a, b } = on.sites;
    await on.freshService();
    for (let trip = 0; trip < trips; trip++) {
      await moved(a, b);
      await moved(b, a);
    }
    const left = await on.leftovers();
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    return "nothing left behind";
  });
}

if (part === "all" || part === "crowd") await attempt("ten migrations at once", (on) => on.crowd(10));

await leaveGround();

if (part === "all" || part === "clients") {
  await using busy = await createBusyService();
  for (let hop = 1; hop <= hops; hop++) await tell(`hop ${hop} of a busy service`, () => hopServed(busy));
}

if (part === "all" || part === "fuzz") await fuzzAll(Number(words[0] ?? 1_000_000), Number(words[1] ?? 0));

if (part === "all" || part === "files") {
  const count = Number(words[0] ?? 1_000_000);
  await tell(`a service with ${count} files`, () => moveManyFiles(count));
}

console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exitCode = failed === 0 ? 0 : 1;
