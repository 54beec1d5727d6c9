/**
 * The long test between clusters: every step × both moments × every victim, and the original's sequence.
 *
 *     npm run soak:kubernetes                          all of it
 *     npm run soak:kubernetes -- matrix "the link"     the cases whose names contain the words
 *     npm run soak:kubernetes -- steps | trips
 */
import { setUp } from "../setup/setup.ts";
import { personIn } from "./cluster-people.ts";
import { moments, nameOf, steps } from "./disturbance.ts";
import { type ClusterGround, clusterVictims, createClusterGround, onePerClusterStep } from "./kubernetes-disturbance.ts";
import { runOriginalSequence } from "./memhog.ts";

const [part = "all", ...words] = process.argv.slice(2);
const rounds = 30;
const counts = { passed: 0, failed: 0, skipped: 0 };

let ground: ClusterGround | undefined;
/** After a failure the clusters may hold anything, so the next case gets new ones. */
async function attempt(name: string, action: (ground: ClusterGround) => Promise<{ outcome: string; disturbed: boolean }>): Promise<void> {
  const startedAt = performance.now();
  const say = (mark: string, text: string) =>
    console.log(`${mark} ${name}: ${text} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
  try {
    ground ??= await createClusterGround();
    const { outcome, disturbed } = await action(ground);
    counts[disturbed ? "passed" : "skipped"]++;
    say(disturbed ? "ok     " : "skipped", disturbed ? outcome : `${outcome}, nothing to kill at this step`);
  } catch (error) {
    counts.failed++;
    say("FAILED ", error instanceof Error ? error.message : String(error));
    await ground?.[Symbol.asyncDispose]();
    ground = undefined;
  }
}

await setUp();

const cases =
  part === "steps"
    ? onePerClusterStep
    : part === "all" || part === "matrix"
      ? steps.flatMap((step) => moments.flatMap((moment) => clusterVictims.map((victim) => ({ step, moment, victim }))))
      : [];
for (const each of cases) {
  const name = nameOf(each);
  if (words.every((word) => name.includes(word))) await attempt(name, (on) => on.tryCase(each));
}

if (part === "all" || part === "trips") {
  await attempt(`the original's sequence, ${rounds} times`, async (on) => {
    const { a, b } = on.sites;
    const tokens = await Promise.all([a, b].map(personIn));
    for (let round = 0; round < rounds; round++) {
      const [from, to] = round % 2 === 0 ? [a, b] : [b, a];
      await runOriginalSequence(on.sites, { from, to, token: tokens[round % 2] ?? "" });
    }
    const left = await on.leftovers();
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    return { outcome: "nothing left behind", disturbed: true };
  });
}

await ground?.[Symbol.asyncDispose]();
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed === 0 ? 0 : 1;
