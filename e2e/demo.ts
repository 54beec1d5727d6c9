/** The main job on real input: a Redis in a Podman container moves from one host to another and back. */
import { setUp } from "../setup/setup.ts";
import { demonstrate } from "./demonstration.ts";
import { moved } from "./disturbance.ts";
import { redisPort, startRedis } from "./redis.ts";
import { createSites } from "./sites.ts";

await demonstrate(async ({ say, memoryMiB }) => {
  say("Setting up: packages, CRIU, the bundle");
  await setUp();
  say("Making two hosts, each with Podman and `ums serve`, and pairing them");
  const sites = await createSites();
  const { a, b, hosts } = sites;
  const { address } = a.host;
  say(`Starting a Redis with ${memoryMiB} MiB on ${a.name}; a client writes every 5 ms to ${address}:${redisPort} from now on`);
  await startRedis(a.host, { memoryMiB });
  return {
    clientAt: hosts.wan,
    host: address,
    port: redisPort,
    moves: [
      { to: b.name, move: () => moved(a, b) },
      { to: a.name, move: () => moved(b, a) },
    ],
    [Symbol.asyncDispose]: () => sites[Symbol.asyncDispose](),
  };
});
