/**
 * The long test between clusters: every step × both moments × every victim, and the original's sequence.
 *
 *     npm run soak:kubernetes                          all of it
 *     npm run soak:kubernetes -- matrix "the link"     the cases whose names contain the words
 *     npm run soak:kubernetes -- steps | trips | crowd
 */
import { setUp } from "../setup/setup.ts";
import { personIn } from "./cluster-people.ts";
import { nameOf } from "./disturbance.ts";
import { allClusterCases, type ClusterGround, createClusterGround, onePerClusterStep } from "./kubernetes-disturbance.ts";
import { runOriginalSequence } from "./memhog.ts";
import { redisImageName } from "./redis-pod.ts";

const [part = "all", ...words] = process.argv.slice(2);
const rounds = 30;
const crowd = 20;
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

const cases = part === "steps" ? onePerClusterStep : part === "all" || part === "matrix" ? allClusterCases : [];
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

if (part === "all" || part === "crowd") {
  await attempt(`${crowd} pods at once`, async (on) => {
    const { a, b } = on.sites;
    const names = Array.from({ length: crowd }, (_, index) => `sleeper-${index}`);
    const containers = [{ name: "main", image: redisImageName, command: ["sleep", "infinity"] }];
    const spec = { terminationGracePeriodSeconds: 1, containers };
    await a.apply(...names.map((name) => ({ apiVersion: "v1", kind: "Pod", metadata: { name }, spec })));
    await a.cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=120s", ...names.map((name) => `pod/${name}`)], {
      timeoutMs: 130_000,
    });
    await a.apply(
      ...names.map((name) => ({
        apiVersion: "ums.dev/v1",
        kind: "Migration",
        metadata: { name },
        spec: { pod: name, destination: b.name },
      })),
    );
    const all = names.map((name) => `migration/${name}`);
    await a.cluster.kubectl(["wait", "--for=condition=Succeeded", "--timeout=600s", ...all], { timeoutMs: 610_000 });
    await b.cluster.kubectl(["delete", "pods", ...names, "--grace-period=1"], { timeoutMs: 120_000 });
    const left = await on.leftovers();
    if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
    return { outcome: "all of them have arrived, and nothing is left behind", disturbed: true };
  });
}

await ground?.[Symbol.asyncDispose]();
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed === 0 ? 0 : 1;
