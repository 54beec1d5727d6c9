/**
 * The main job on real input: a Redis in a plain pod moves from one Kubernetes cluster to another and back, while a client
 * writes to it all the time at one address. `--json` adds a last line with the figures of the move there.
 */
import { setUp } from "../setup/setup.ts";
import { createClusterSites, moved } from "./cluster-sites.ts";
import { demonstrate } from "./demonstration.ts";
import { redisImage, redisNodePort, startRedisPod } from "./redis-pod.ts";

await demonstrate(async ({ say, memoryMiB }) => {
  say("Setting up: packages, CRIU, Kubernetes' own programs, images");
  await setUp();
  const images = [await redisImage()];
  say("Making two clusters with UMS in them, and pairing them");
  const sites = await createClusterSites({ images });
  const { a, b, clusters } = sites;
  const [{ address }] = a.cluster.nodes;
  say(`Starting a Redis with ${memoryMiB} MiB in ${a.name}; a client writes every 5 ms to ${address}:${redisNodePort} from now on`);
  await startRedisPod(a, { memoryMiB });
  return {
    clientAt: clusters.wan,
    host: address,
    port: redisNodePort,
    moves: [
      { to: b.name, move: () => moved(a, b, "redis") },
      { to: a.name, move: () => moved(b, a, "redis") },
    ],
    [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
  };
});
