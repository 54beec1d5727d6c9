/**
 * `npm run bench:kubernetes`: a Redis pod from one cluster to another by UMS and by the kubelet's own way (its checkpoint
 * API, an image of the checkpoint, a pod from that), and a Redis container from host to host, in turn, in one run: the
 * machine is noisy, so only ratios within a run count. Writes bench/out/kubernetes.json and kubernetes.svg.
 * `--rounds N --memory 16,256 --subjects ums,kubelet,host`; `--hops N` of a busy pod, 0: none
 */
import { parseArgs } from "node:util";
import { createBusyPod } from "../e2e/busy-pod.ts";
import { createClusterSites } from "../e2e/cluster-sites.ts";
import { redisImage } from "../e2e/redis-pod.ts";
import { createSites } from "../e2e/sites.ts";
import { setUp } from "../setup/setup.ts";
import { byKubelet, byUms, prepareKubelet } from "./cluster-subjects.ts";
import { printSteps, publish, type Result } from "./result.ts";
import { measureServed } from "./served.ts";
import { type Measured, subjects as hostSubjects } from "./subjects.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    memory: { type: "string", default: "16,256,1024" },
    subjects: { type: "string", default: "ums,kubelet,host" },
    hops: { type: "string", default: "6" },
  },
});

await setUp({ purpose: "benchmark" });
const results: Result[] = [];
{
  await using clusters = await createClusterSites({ images: [await redisImage()] });
  await prepareKubelet(clusters);
  await using hosts = await createSites();
  const subjects: Readonly<Record<string, (memoryMiB: number) => Promise<Measured>>> = {
    ums: (memoryMiB) => byUms(clusters, memoryMiB),
    // Its checkpoint fails now and then; what it takes when it works is what counts.
    kubelet: (memoryMiB) => retried(() => byKubelet(clusters, memoryMiB)),
    host: (memoryMiB) => hostSubjects.ums(hosts, memoryMiB),
  };

  for (const memoryMiB of values.memory.split(",").map(Number)) {
    const rows = values.subjects.split(",").map((name) => ({ name, memoryMiB, link: "unshaped", measured: [] as Measured[] }));
    results.push(...rows);
    for (let round = 1; round <= Number(values.rounds); round++) {
      for (const { name, measured } of rows) {
        const subject = subjects[name];
        if (!subject) throw new Error(`There is no subject ${name}.`);
        const one = await subject(memoryMiB);
        measured.push(one);
        console.error(
          `${memoryMiB} MiB round ${round} ${name}: ${Math.round(one.downtimeMs)} ms down, ${Math.round(one.totalMs)} ms in all`,
        );
      }
    }
  }
}
await publish("kubernetes", results, { against: ["host", "kubelet"] });
printSteps(results.filter(({ name }) => name !== "kubelet"));
await measureServed(createBusyPod, Number(values.hops));

async function retried(measure: () => Promise<Measured>, tries = 3): Promise<Measured> {
  try {
    return await measure();
  } catch (cause) {
    if (tries === 1) throw cause;
    console.error(`once more: ${cause instanceof Error ? cause.message.slice(0, 300) : String(cause)}`);
    return await retried(measure, tries - 1);
  }
}
