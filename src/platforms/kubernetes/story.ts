/** Events on a pod, with the original's type and reasons: what `kubectl describe pod` tells of a migration. */
import type { Cluster } from "./client.ts";
import { events, pods } from "./kinds.ts";

export async function tell(
  cluster: Cluster,
  { namespace, pod, reason, message }: { namespace: string; pod: string; reason: "ready" | "expose" | "error"; message: string },
): Promise<void> {
  const uid = (await cluster.get(pods, pod, { namespace }))?.metadata?.uid;
  const now = new Date().toISOString();
  await cluster.create(
    events,
    {
      apiVersion: "v1",
      kind: "Event",
      metadata: { generateName: `${pod}.`, namespace },
      involvedObject: { apiVersion: "v1", kind: "Pod", namespace, name: pod, ...(uid === undefined ? {} : { uid }) },
      type: "migration",
      reason,
      message,
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
      source: { component: "ums" },
    },
    { namespace },
  );
}
