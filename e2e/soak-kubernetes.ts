/**
 * The long test between clusters, and between a cluster and a host: every step × both moments × every victim, and the
 * original's sequence.
 *
 *     npm run soak:kubernetes                          all of it
 *     npm run soak:kubernetes -- matrix "the link"     the cases whose names match the regular expressions
 *     npm run soak:kubernetes -- edge "^cluster to host: ums serve"   the same of those between a cluster and a host
 *     npm run soak:kubernetes -- steps | trips | crowd | clients
 */
import { setUp } from "../setup/setup.ts";
import { complaints, slowest } from "./busy-client.ts";
import { type BusyPod, createBusyPod } from "./busy-pod.ts";
import { personIn } from "./cluster-people.ts";
import { allEdgeCases, createEdgeGround, type EdgeGround } from "./edge-disturbance.ts";
import { nameOf, type Tried } from "./disturbance.ts";
import { allClusterCases, type ClusterGround, createClusterGround, onePerClusterStep } from "./kubernetes-disturbance.ts";
import { runOriginalSequence } from "./memhog.ts";
import { redisImage, redisImageName } from "./redis-pod.ts";

const [part = "all", ...words] = process.argv.slice(2);
const rounds = 30;
const hops = 20;
const crowd = 20;
const counts = { passed: 0, failed: 0, skipped: 0 };

type Attempt<Ground> = Readonly<{ name: string; action: (ground: Ground) => Promise<Tried> }>;

/** Takes one attempt after another, all of them on one ground as long as none fails: after that the clusters may hold anything. */
async function run<Ground extends AsyncDisposable>(
  attempts: Iterator<Attempt<Ground>>,
  createGround: () => Promise<Ground>,
): Promise<void> {
  let ground: Ground | undefined;
  for (let next = attempts.next(); !next.done; next = attempts.next()) {
    const { name, action } = next.value;
    const startedAt = performance.now();
    const say = (mark: string, text: string) =>
      console.log(`${mark} ${name}: ${text} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`);
    try {
      ground ??= await createGround();
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
  await ground?.[Symbol.asyncDispose]();
}

/** @throws Error naming what a client has met that none should meet */
async function hopServed(busy: BusyPod): Promise<Tried> {
  const met = await busy.hop();
  const wrong = [...complaints(met), ...(await busy.late())];
  if (wrong.length > 0) throw new Error(wrong.join("\n  "));
  return { outcome: slowest(met), disturbed: true };
}

/** @throws Error naming what a migration has left behind */
async function expectNothingLeft(on: ClusterGround): Promise<void> {
  const left = await on.leftovers();
  if (left.length > 0) throw new Error(`Left behind:\n  ${left.join("\n  ")}`);
}

async function goToAndFro(on: ClusterGround): Promise<Tried> {
  const { a, b } = on.sites;
  const tokens = await Promise.all([a, b].map(personIn));
  for (let round = 0; round < rounds; round++) {
    const [from, to] = round % 2 === 0 ? [a, b] : [b, a];
    await runOriginalSequence(on.sites, { from, to, token: tokens[round % 2] ?? "" });
  }
  await expectNothingLeft(on);
  return { outcome: "nothing left behind", disturbed: true };
}

async function moveCrowd(on: ClusterGround): Promise<Tried> {
  const { a, b } = on.sites;
  const names = Array.from({ length: crowd }, (_, index) => `sleeper-${index}`);
  const containers = [{ name: "main", image: redisImageName, command: ["sleep", "infinity"] }];
  const spec = { terminationGracePeriodSeconds: 1, containers };
  await a.apply(...names.map((name) => ({ apiVersion: "v1", kind: "Pod", metadata: { name }, spec })));
  const pods = names.map((name) => `pod/${name}`);
  await a.cluster.kubectl(["wait", "--for=condition=Ready", "--timeout=120s", ...pods], { timeoutMs: 130_000 });
  const migration = (pod: string) => ({
    apiVersion: "ums.dev/v1",
    kind: "Migration",
    metadata: { name: pod },
    spec: { pod, destination: b.name },
  });
  await a.apply(...names.map(migration));
  const all = names.map((name) => `migration/${name}`);
  await a.cluster.kubectl(["wait", "--for=condition=Succeeded", "--timeout=600s", ...all], { timeoutMs: 610_000 });
  await b.cluster.kubectl(["delete", "pods", ...names, "--grace-period=1"], { timeoutMs: 120_000 });
  await expectNothingLeft(on);
  return { outcome: "all of them have arrived, and nothing is left behind", disturbed: true };
}

const asked = (...names: string[]) => names.includes(part);
const cases = asked("steps") ? onePerClusterStep : asked("all", "matrix") ? allClusterCases : [];
const isWanted = ({ name }: { name: string }) => words.every((word) => new RegExp(word).test(name));
const matrix = cases.map((which) => ({ name: nameOf(which), action: (on: ClusterGround) => on.tryCase(which) })).filter(isWanted);
const edge = (asked("all", "edge") ? allEdgeCases : [])
  .map((which) => {
    const direction = which.from === "cluster" ? "cluster to host" : "host to cluster";
    return { name: `${direction}: ${nameOf(which)}`, action: (on: EdgeGround) => on.tryCase(which) };
  })
  .filter(isWanted);
const whole: Attempt<ClusterGround>[] = [
  ...(asked("all", "trips") ? [{ name: `the original's sequence, ${rounds} times`, action: goToAndFro }] : []),
  ...(asked("all", "crowd") ? [{ name: `${crowd} pods at once`, action: moveCrowd }] : []),
];

const clients = Array.from({ length: asked("all", "clients") ? hops : 0 }, (_, at) => ({
  name: `hop ${at + 1} of a busy pod`,
  action: hopServed,
}));

await setUp();
await redisImage();
// Most of a case is waiting: two sets of clusters take turns with the machine.
const [queue, edgeQueue] = [matrix.values(), edge.values()];
await Promise.all([run(queue, createClusterGround), run(queue, createClusterGround)]);
await Promise.all([run(edgeQueue, createEdgeGround), run(edgeQueue, createEdgeGround)]);
await run(whole.values(), createClusterGround);
await run(clients.values(), createBusyPod);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exitCode = counts.failed === 0 ? 0 : 1;
