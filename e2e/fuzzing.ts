/**
 * Input of any kind for two real sites: a peer's requests and its data connection at the destination, a destination's answers
 * and replies at the source. Whatever comes, `ums serve` stays, answers in time, keeps nothing, and moves services afterwards.
 */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { ContainerNeed } from "../src/protocol/container.ts";
import { impatient, moved } from "./disturbance.ts";
import { fuzz, type FuzzOrder, type FuzzReport } from "./fuzzer.ts";
import { playHostile } from "./hostile-site.ts";
import { type Inventory, inventoryChanges } from "./hosts.ts";
import { imageReference } from "./images.ts";
import type { RunningProcess } from "./place.ts";
import { startRedis } from "./redis.ts";
import { createSites, type Sites, type TestSite } from "./sites.ts";

export const kindsOfInput = ["requests", "frames", "answers"] as const;
type Kind = (typeof kindsOfInput)[number];

/** A daemon may grow by buffers and caches; what grows with its input would pass this soon. */
const growthBytes = 256 << 20;
const moreDescriptors = 16;
/** The reservations of a fuzzer that has gone end by their lease. */
const settleMs = 40_000;

export type Fuzzing = AsyncDisposable &
  Readonly<{
    /** @returns what came of it, in words @throws Error naming all that went wrong */
    run(what: Kind, order: Pick<FuzzOrder, "seed" | "inputs" | "forMs">): Promise<FuzzReport>;
    /** A service moves there and back. */
    expectWell(): Promise<void>;
  }>;

const memoryOf = ({ outerPid }: RunningProcess) =>
  Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${outerPid}/status`, "utf8"))?.[1]) * 1024;
const descriptorsOf = ({ outerPid }: RunningProcess) => readdirSync(`/proc/${outerPid}/fd`).length;

export async function createFuzzing(): Promise<Fuzzing> {
  const sites = await createSites({ configuration: { ...impatient, logLevel: "info" } });
  try {
    return await prepare(sites);
  } catch (cause) {
    await sites[Symbol.asyncDispose]();
    throw cause;
  }
}

async function prepare(sites: Sites): Promise<Fuzzing> {
  const { a, b } = sites;
  const expectWell = async () => {
    await moved(a, b);
    await moved(b, a);
  };
  await startRedis(a.host, { memoryMiB: 1 });
  await expectWell();
  const need = await needOf(a, "fuzzed");
  await b.host.podman(["volume", "create", "first"]); // after which Podman keeps a file of its own
  await b.host.podman(["volume", "rm", "first"]);
  return {
    expectWell,
    async run(what, order) {
      const fuzzed = what === "answers" ? a : b;
      const serve = fuzzed.serve();
      const known = await fuzzed.host.inventory();
      const before = { memory: memoryOf(serve), descriptors: descriptorsOf(serve) };
      const hostile = what === "answers" ? await inPlaceOf(b, a, order.seed) : undefined;
      const report = await fuzz(a, b, { ...order, what, need });
      if (hostile) await hostile.end();
      const complaints = [...report.complaints, ...(await afterwards(fuzzed, { serve, before, known }))];
      if (complaints.length > 0)
        throw new Error(`Seed ${order.seed}, ${what}:\n  ${complaints.join("\n  ")}\n${JSON.stringify(report.outcomes)}`);
      return { ...report, inputs: hostile?.inputs() ?? report.inputs };
    },
    [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
  };
}

/** Has a site that answers anything run where `ums serve` did. */
async function inPlaceOf(site: TestSite, peer: TestSite, seed: number) {
  await site.stop();
  const hostile = await playHostile(site, peer, { fuzz: seed });
  return {
    inputs: () => Number([...hostile.output().matchAll(/^inputs (\d+)/gm)].at(-1)?.[1] ?? 0),
    async end() {
      hostile.kill("SIGKILL");
      await hostile.exited;
      await site.restart();
    },
  };
}

async function needOf(site: TestSite, name: string): Promise<ContainerNeed> {
  await site.host.podman(["run", "--detach", "--name", name, "--volume", `${name}:/data`, imageReference("redis"), "sleep", "infinity"]);
  const input = JSON.stringify([{ call: "need", name }]);
  const { stdout } = await site.host.exec([process.execPath, new URL("preflight-calls.ts", import.meta.url).pathname], { input });
  await site.host.podman(["rm", "--force", "--time", "0", "--volumes", name]);
  await site.host.podman(["volume", "rm", "--force", name]);
  const [need] = JSON.parse(stdout) as [ContainerNeed];
  return need;
}

type Before = Readonly<{
  serve: RunningProcess;
  before: Readonly<{ memory: number; descriptors: number }>;
  known: Inventory;
}>;

/** What is not as it was. */
async function afterwards({ host, name }: TestSite, { serve, before, known }: Before): Promise<string[]> {
  const exit = await Promise.race([serve.exited, sleep(100)]);
  if (exit) return [`ums serve of ${name} has ended: ${JSON.stringify(exit)}\n${serve.output().slice(-2_000)}`];
  const left = async () => [
    ...(descriptorsOf(serve) > before.descriptors + moreDescriptors
      ? [`${descriptorsOf(serve)} open files, of ${before.descriptors}`]
      : []),
    ...inventoryChanges(known, await host.inventory()).filter((line) => !standing.test(line)),
  ];
  let rest = await left();
  for (const until = Date.now() + settleMs; rest.length > 0 && Date.now() < until; await sleep(500)) rest = await left();
  const grown = memoryOf(serve) - before.memory;
  return [
    ...rest,
    ...(grown > growthBytes ? [`it has grown by ${(grown / 2 ** 20).toFixed()} MiB`] : []),
    ...serve
      .output()
      .split("\n")
      .filter((line) => /"level":(50|60)/.test(line))
      .slice(0, 10),
  ];
}

/** Of time alone: a service that has been up for longer, files of the processes that run. */
const standing = /^. (containers: redis .* Up |files: \/(run\/(lock|ums\/podman|criu\.kdat|crun|runc)|tmp\/)|processes: .*podman)/;
