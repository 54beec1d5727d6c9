/** A service between a cluster and a host, there and back: what moves, and what is refused because the other side has no words for it. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Pod } from "../src/platforms/kubernetes/kinds.ts";
import { startClient } from "./client.ts";
import { type ClusterAndHost, createClusterAndHost } from "./cluster-host.ts";
import { type ClusterSite, moved } from "./cluster-sites.ts";
import { redisImage, redisNodePort, startRedisPod } from "./redis-pod.ts";
import type { TestSite } from "./sites.ts";

let sites: ClusterAndHost;
let cluster: ClusterSite;
let host: TestSite;

beforeAll(async () => {
  sites = await createClusterAndHost({ images: [await redisImage()] });
  ({ cluster, host } = sites);
});
afterAll(async () => {
  if (process.env.UMS_DEBUG) console.log(host.serve().output().split("\n").slice(-60).join("\n"));
  await sites[Symbol.asyncDispose]();
});

const kubectl = async (...args: string[]) => (await cluster.cluster.kubectl(args, { timeoutMs: 130_000 })).stdout;
const podIn = async (name: string) => JSON.parse(await kubectl("get", "pod", name, "--output=json")) as Pod;

test("Redis goes from a cluster to a host and back under a writing client, and is the same Pod again", async () => {
  await startRedisPod(cluster, { memoryMiB: 8 });
  const before = await podIn("redis");
  const client = await startClient(sites.wan, { host: cluster.cluster.nodes[0].address, port: redisNodePort });
  await moved(cluster, host, "redis");
  console.log(await client.verify());
  await moved(host, cluster, "redis");
  const summary = await client.stop();
  console.log(summary);
  expect(summary).toMatchObject({ lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0 });
  expect((await podIn("redis")).metadata?.labels).toEqual(before.metadata?.labels);
});
void describe;
