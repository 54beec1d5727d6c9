/** The Redis that the demo and the benchmark move. */
import type { Host } from "./hosts.ts";
import { imageReference } from "./images.ts";

export const redisPort = 6379;

/** Starts a Redis in a container, filled with so many MiB. */
export async function startRedis(host: Host, { name = "redis", memoryMiB }: { name?: string; memoryMiB: number }): Promise<void> {
  const server = ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"];
  await host.podman([
    "run",
    "--detach",
    "--name",
    name,
    "--restart",
    "always",
    "--publish",
    `${redisPort}:${redisPort}`,
    imageReference("redis"),
    ...server,
  ]);
  const inside = (...args: string[]) => host.podman(["exec", name, ...args]);
  await inside("sh", "-c", "for i in $(seq 100); do redis-cli ping && exit; sleep 0.05; done; exit 1");
  // 4 KiB values: Redis itself needs some more around them.
  await inside("redis-cli", "debug", "populate", String(memoryMiB * 240), "key", "4096");
}
