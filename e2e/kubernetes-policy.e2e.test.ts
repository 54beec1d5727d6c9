/** What of a pod is beyond `baseline`: the API server's own admission judges as UMS does before a pod comes. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { accepting } from "../src/accept.ts";
import { type Cluster, ClusterError, openCluster } from "../src/platforms/kubernetes/client.ts";
import { connectByKubeconfig } from "../src/platforms/kubernetes/connection.ts";
import { namespaces, type Pod, pods } from "../src/platforms/kubernetes/kinds.ts";
import { podPolicy } from "../src/preflight/policy.ts";
import { beyondBaseline, withinBaseline } from "../src/preflight/pods-for-tests.ts";
import { type ApiServer, apiServerPrograms, startApiServer } from "./api-server.ts";

let server: ApiServer;
let cluster: Cluster;
beforeAll(async () => {
  const programs = apiServerPrograms();
  if (!programs) throw new Error("kube-apiserver and etcd have not been built yet.");
  server = await startApiServer(programs);
  cluster = openCluster(await connectByKubeconfig(server.kubeconfig));
  const labels = { "pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "latest" };
  await cluster.create(namespaces, { metadata: { name: "shop", labels } });
}, 180_000);
afterAll(async () => {
  cluster.close();
  await server[Symbol.asyncDispose]();
});

const own = { namespace: "default", accounts: [], secrets: [], apps: [] };
/** What the API server says of it; undefined: it takes it. */
async function said(pod: Pod): Promise<string | undefined> {
  const named = { ...pod, metadata: { ...pod.metadata, name: "judged" } };
  return await cluster.create(pods, named, { namespace: "shop", dryRun: true }).then(
    () => undefined,
    (cause: unknown) => {
      if (cause instanceof ClusterError) return cause.message;
      throw cause;
    },
  );
}

test.each(withinBaseline)("both take %s", async (_what, pod) => {
  expect(await said(pod)).toBeUndefined();
  expect(podPolicy(pod, accepting(), own).ok).toBe(true);
});

test.each(beyondBaseline)("both refuse $what", async ({ pod }) => {
  expect(await said(pod)).toContain('violates PodSecurity "baseline:latest"');
  expect(podPolicy(pod, accepting(), own)).toMatchObject({ ok: false, code: "POLICY" });
});
