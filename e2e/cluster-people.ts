/** People and their scripts at a cluster's coordinator, as the original's experiments called it. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clusters } from "./clusters.ts";
import { type ClusterSite, coordinatorPort } from "./cluster-sites.ts";

const account = "experimenter";

/** @returns the token of somebody who may move pods in this cluster, and nothing else */
export async function personIn({ cluster, apply }: ClusterSite): Promise<string> {
  const metadata = { name: account };
  await apply(
    { apiVersion: "v1", kind: "ServiceAccount", metadata },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRole",
      metadata,
      rules: [{ apiGroups: ["ums.dev"], resources: ["migrations"], verbs: ["create", "list"] }],
    },
    {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata,
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: account },
      subjects: [{ kind: "ServiceAccount", name: account, namespace: "default" }],
    },
  );
  return (await cluster.kubectl(["create", "token", account, "--audience=ums", "--duration=2h"])).stdout.trim();
}

/** Of each site, where curl finds its authority. */
const authorities = new WeakMap<ClusterSite, Promise<string>>();

/** curl's options for https://ums, this site's coordinator: it believes the site's own authority alone, as docs/kubernetes.md has it. */
export async function knowing(site: ClusterSite): Promise<string[]> {
  const known = authorities.get(site) ?? authorityOf(site);
  authorities.set(site, known);
  return ["--cacert", await known, "--connect-to", `ums:443:${site.cluster.nodes[0].address}:${coordinatorPort}`];
}

async function authorityOf({ cluster }: ClusterSite): Promise<string> {
  const template = '{{index .data "authority.crt" | base64decode}}';
  const { stdout } = await cluster.kubectl(["get", "secret", "ums-trust-nodes", "--output=go-template", `--template=${template}`]);
  const directory = mkdtempSync(join(tmpdir(), "ums-authority-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const file = join(directory, "ums.crt");
  writeFileSync(file, stdout);
  return file;
}

/** Asks the coordinator at NodePort 30001, from the wan. @returns the status and the body as it came */
export async function askCoordinator(
  { wan }: Pick<Clusters, "wan">,
  site: ClusterSite,
  { token, method = "GET", path, body, timeoutMs = 120_000 }: AskOptions,
): Promise<{ status: number; text: string }> {
  const { stdout } = await wan.exec(
    [
      ...["curl", "--silent", "--show-error", "--request", method, "--write-out", "\n%{http_code}", ...(await knowing(site))],
      ...(token === undefined ? [] : ["--header", `Authorization: Bearer ${token}`]),
      ...(body === undefined ? [] : ["--header", "Content-Type: application/json", "--data", JSON.stringify(body)]),
      `https://ums${path}`,
    ],
    { timeoutMs },
  );
  const end = stdout.lastIndexOf("\n");
  return { status: Number(stdout.slice(end + 1)), text: stdout.slice(0, end) };
}
type AskOptions = Readonly<{ token?: string; method?: string; path: string; body?: object; timeoutMs?: number }>;
