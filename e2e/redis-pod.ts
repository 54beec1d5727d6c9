/** The Redis that the demo and the tests move between clusters, and the Service by which its clients know it. */
import { type ClusterSite, served } from "./cluster-sites.ts";
import type { NamedImage } from "../setup/container-images.ts";
import { imageLayout } from "./images.ts";

export const redisNodePort = 30_379;
const name = "redis";
export const redisImageName = "ghcr.io/hpcclab/ums-test/redis:7";

/** The image, for the registry of the clusters. */
export const redisImage = async (): Promise<NamedImage> => ({ reference: redisImageName, layout: await imageLayout("redis") });

/** A plain pod: nothing in it knows of UMS. */
const podOf = (image: string) => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, labels: { app: name } },
  spec: {
    containers: [
      {
        name,
        image,
        command: ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"],
        ports: [{ containerPort: 6379 }],
        readinessProbe: { tcpSocket: { port: 6379 }, periodSeconds: 1 },
      },
    ],
  },
});
export const redisService = {
  apiVersion: "v1",
  kind: "Service",
  metadata: { name },
  spec: { type: "NodePort", selector: { app: name }, ports: [{ port: 6379, nodePort: redisNodePort }] },
};

/** Starts the pod and its Service, and fills it with so many MiB. Resolves when every node leads clients to it. */
export async function startRedisPod(
  site: ClusterSite,
  { memoryMiB, image = redisImageName }: { memoryMiB: number; image?: string },
): Promise<void> {
  const { kubectl } = site.cluster;
  await site.apply(podOf(image), redisService);
  await kubectl(["wait", "--for=condition=Ready", `pod/${name}`, "--timeout=60s"], { timeoutMs: 70_000 });
  // 4 KiB values: Redis itself needs some more around them.
  await kubectl(["exec", name, "--", "redis-cli", "debug", "populate", String(memoryMiB * 240), "key", "4096"], { timeoutMs: 120_000 });
  await served(site, redisNodePort);
}
