/** The original's experiment: apply its sample pod, wait, POST, and look at the destination. */
import { setTimeout as sleep } from "node:timers/promises";
import { pods } from "../src/platforms/kubernetes/kinds.ts";
import { askCoordinator } from "./cluster-people.ts";
import { type ClusterSite, type ClusterSites, coordinatorPort } from "./cluster-sites.ts";

const sample = (processes: number) => `apiVersion: v1
kind: Pod
metadata:
  name: memhog
spec:
  serviceAccountName: migration-coordinator
  containers:
    - name: memhog
      image: ghcr.io/hpcclab/nims/memhog:main
      env:
        - name: PROCESS
          value: "${processes}"
`;

/** What memhog has counted, by its log. */
export const counted = (log: string): number[] =>
  log
    .split("\n")
    .flatMap((line) => /^\d{16} Counter: (\d+)$/.exec(line)?.[1] ?? [])
    .map(Number);

export const memhogLog = async ({ cluster }: ClusterSite) => (await cluster.kubectl(["logs", "memhog"])).stdout;

/** Resolves when it is Ready. */
export async function startMemhog({ cluster }: ClusterSite, { processes = 1 } = {}): Promise<void> {
  await cluster.kubectl(["apply", "--filename=-"], { input: sample(processes) });
  await cluster.kubectl(["wait", "--for=condition=Ready", "pod/memhog", "--timeout=120s"], { timeoutMs: 130_000 });
}

/** POSTs `/migrate` to the source's coordinator. @param token of a person there */
export async function postMigrate(
  { clusters }: Pick<ClusterSites, "clusters">,
  { from, to, token, body }: { from: ClusterSite; to: ClusterSite; token: string; body: { name: string } },
): Promise<{ status: number; text: string }> {
  const destinationUrl = `${to.cluster.nodes[0].address}:${coordinatorPort}`;
  return await askCoordinator(clusters, from, {
    token,
    method: "POST",
    path: "/migrate",
    body: { namespace: "default", destinationUrl, ...body },
  });
}

/**
 * One round: the pod is made, moved, counts on where it was, and is deleted at once.
 * @throws Error naming what went wrong
 */
export async function runOriginalSequence(
  sites: Pick<ClusterSites, "clusters">,
  { from, to, token }: { from: ClusterSite; to: ClusterSite; token: string },
): Promise<void> {
  await startMemhog(from);
  await until("it counts at the source", async () => counted(await memhogLog(from)).length > 1);
  const { status, text } = await postMigrate(sites, { from, to, token, body: { name: "memhog" } });
  if (status !== 200) throw new Error(`The request was answered with ${status}: ${text}`);
  if (await from.cluster.api.get(pods, "memhog")) throw new Error(`${from.name} has the pod still.`);
  const before = counted(await memhogLog(to)).length;
  await until("it counts at the destination", async () => counted(await memhogLog(to)).length > before + 1);
  const counts = counted(await memhogLog(to));
  if (counts.some((count, index) => count !== index)) throw new Error(`It did not count on: ${counts.join(" ")}`);
  await to.cluster.kubectl(["delete", "pod", "memhog", "--timeout=20s"], { timeoutMs: 30_000 });
}

async function until(what: string, isSo: () => Promise<boolean>, timeoutMs = 30_000): Promise<void> {
  for (const end = Date.now() + timeoutMs; Date.now() < end; await sleep(200)) if (await isSo()) return;
  throw new Error(`Not within ${timeoutMs / 1000} s: ${what}.`);
}
