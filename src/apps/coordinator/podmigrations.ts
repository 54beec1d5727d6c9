/** What the original's `ssu-apiserver` answered: its requests become Podmigration objects, which the operator carries out. */
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { podmigrations } from "../../platforms/kubernetes/podmigration.ts";
import type { OriginalSettings } from "./original.ts";

export function createPodmigrationRequests(cluster: Cluster): NonNullable<OriginalSettings["podmigrations"]> {
  return {
    create: ({ name, namespace = "default", selector = {}, ...spec }) =>
      cluster.create(
        podmigrations,
        {
          apiVersion: podmigrations.apiVersion,
          kind: podmigrations.kind,
          metadata: { name, namespace },
          spec: { ...spec, selector },
        },
        { namespace },
      ),
    list: async (signal) => (await cluster.list(podmigrations, { namespace: undefined, signal })).items,
  };
}
