/** The ways of moving a Redis pod that the benchmark compares. Each leaves both clusters as it found them. */
import { copyFile, mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startClient } from "../e2e/client.ts";
import { type ClusterSites, moved } from "../e2e/cluster-sites.ts";
import { labelImage, layerOf, packImage } from "../e2e/image-layout.ts";
import { redisImage, redisNodePort, redisService, startRedisPod } from "../e2e/redis-pod.ts";
import type { Measured } from "./subjects.ts";

const prober = new URL("./prober.ts", import.meta.url).pathname;

export async function byUms({ clusters, a, b }: ClusterSites, memoryMiB: number): Promise<Measured> {
  await startRedisPod(a, { memoryMiB });
  const client = await startClient(clusters.wan, { host: a.cluster.nodes[0].address, port: redisNodePort, everyMs: 2 });
  await sleep(500);
  const migration = await moved(a, b, "redis");
  await sleep(300);
  const met = await client.stop();
  if (met.lostWrites > 0) throw new Error(`ums: ${JSON.stringify({ migration, met })}`);
  await b.cluster.kubectl(["delete", "pod/redis", "--now"], { timeoutMs: 60_000 });
  for (const { cluster } of [a, b]) await cluster.kubectl(["delete", "migrations", "--all"], { timeoutMs: 60_000 });
  return { downtimeMs: met.downtimeMs, totalMs: migration.totalMs ?? 0, migration };
}

/** An image of its own, so that containerd can note no other name in the checkpoint. */
const baseImage = "localhost:5000/hpcclab/ums-test/checkpoint-base:7";

/** Makes known what {@link byKubelet} needs. */
export async function prepareKubelet({ clusters }: ClusterSites): Promise<void> {
  await using work = await temporary();
  const layout = join(work.path, "base");
  await labelImage((await redisImage()).layout, { target: layout, labels: { "ums.dev/test": "the base of checkpoints" } });
  await clusters.pushImages([{ reference: baseImage, layout }]);
}

/**
 * The checkpoint API of the kubelet (ContainerCheckpoint), its archive as an image, and a pod of that image, which
 * containerd 2.1 restores. A checkpoint leaves its container running: the downtime counts from the call on.
 */
export async function byKubelet({ clusters, a, b }: ClusterSites, memoryMiB: number): Promise<Measured> {
  // containerd pulls the base of a checkpoint past its mirrors, by plain HTTP from localhost alone (containerd 2.1).
  const bridges = await Promise.all(
    b.cluster.nodes.map((node) => node.spawn(["socat", "TCP-LISTEN:5000,bind=127.0.0.1,fork,reuseaddr", `TCP:${clusters.registry}`])),
  );
  await using _bridges = { [Symbol.asyncDispose]: async () => void bridges.forEach((bridge) => bridge.kill("SIGKILL")) };
  await startRedisPod(a, { memoryMiB, image: baseImage });
  const [source] = a.cluster.nodes;
  const [destination] = b.cluster.nodes;
  // The kubelet's CRIU refuses open connections unless told, and restores them unless told.
  for (const node of [...a.cluster.nodes, ...b.cluster.nodes])
    await node.exec(["sh", "-c", "mkdir -p /etc/criu && echo tcp-close > /etc/criu/runc.conf"]);
  await b.apply(redisService);
  await using work = await temporary();
  const startedAt = Date.now();
  const call = `/api/v1/nodes/${source.name}/proxy/checkpoint/default/redis/redis`;
  const { stdout } = await a.cluster.kubectl(["create", `--raw=${call}`, "--filename=-"], { input: "", timeoutMs: 120_000 });
  const [archive = ""] = (JSON.parse(stdout) as { items: string[] }).items;
  await copyFile(source.path(archive), join(work.path, "checkpoint.tar"));
  const layer = await layerOf(join(work.path, "checkpoint.tar"));
  const annotations = { "org.criu.checkpoint.container.name": "redis" };
  await mkdir(join(work.path, "layouts"));
  await packImage({ name: "checkpoint", layers: [layer], command: [], work: work.path, target: join(work.path, "layouts"), annotations });
  const reference = `ghcr.io/hpcclab/ums-test/checkpoint:${startedAt}`;
  await clusters.pushImages([{ reference, layout: join(work.path, "layouts/checkpoint") }]);
  await b.apply({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "redis", labels: { app: "redis" } },
    spec: { containers: [{ name: "redis", image: reference }] },
  });
  const answered = await clusters.wan
    .exec([process.execPath, prober, "--first", destination.address, String(redisNodePort)], { timeoutMs: 60_000 })
    .catch(async (cause: unknown) => {
      const { stdout } = await b.cluster.kubectl(["describe", "pod", "redis"]);
      throw new Error(`The pod from the checkpoint does not answer: ${stdout}`, { cause });
    });
  const downtimeMs = (JSON.parse(answered.stdout) as { firstAt: number }).firstAt - startedAt;
  for (const { cluster } of [a, b]) await cluster.kubectl(["delete", "pod/redis", "--now", "--ignore-not-found"], { timeoutMs: 60_000 });
  await b.cluster.kubectl(["delete", "service/redis"]);
  await source.exec(["rm", "--force", archive]);
  for (const node of [...a.cluster.nodes, ...b.cluster.nodes]) await node.exec(["rm", "--force", "/etc/criu/runc.conf"]);
  return { downtimeMs, totalMs: downtimeMs };
}

async function temporary(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), "ums-bench-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
