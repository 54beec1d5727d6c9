/**
 * Podman's API service, started where nobody has; what it started outlives it. It has a socket of its own, because
 * Podman 4.3 takes a new container's runtime from the service's options and ignores `oci_runtime` of its API: what is
 * created here gets UMS's runtime, and containers that are there already keep theirs.
 */
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { UmsError } from "../../errors.ts";
import { createPodmanApi } from "./api.ts";
import { shimRuntime } from "./runtimes.ts";

const startMs = 15_000;

/** @returns what ends the service, where it was started here. @throws UmsError PODMAN_UNREACHABLE */
export async function ensurePodmanService(socketPath: string): Promise<{ close(): Promise<void> }> {
  if (await answers(socketPath)) return { close: async () => undefined };
  await mkdir(path.dirname(socketPath), { recursive: true, mode: 0o755 });
  // In a session of its own: a signal for this process must not stop a container's start half-way.
  const command = ["podman", "--runtime", shimRuntime, "system", "service", "--time=0", `unix://${socketPath}`];
  // What a container's users may read is the container's to say, and not the umask of UMS's own unit.
  const service = execa("sh", ["-c", 'umask 0022 && exec "$@"', "sh", ...command], {
    detached: true,
    cleanup: false,
    stdio: "ignore",
    reject: false,
  });
  for (const until = Date.now() + startMs; Date.now() < until; await sleep(25)) {
    if (existsSync(socketPath) && (await answers(socketPath)))
      return {
        async close() {
          service.kill("SIGTERM");
          await Promise.race([service, sleep(5_000, undefined, { ref: false })]);
        },
      };
  }
  service.kill("SIGKILL");
  throw new UmsError("PODMAN_UNREACHABLE", `Podman's API service did not come up on ${socketPath}.`);
}

async function answers(socketPath: string): Promise<boolean> {
  if (!existsSync(socketPath)) return false;
  const api = createPodmanApi(socketPath);
  try {
    return await api.ping(5_000);
  } finally {
    api.close();
  }
}
