/** A real API server with UMS's manifests: its objects, accounts, rights and admission, and no node. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { loadAll } from "js-yaml";
import { type Cluster, openCluster } from "../src/platforms/kubernetes/client.ts";
import { connectByKubeconfig } from "../src/platforms/kubernetes/connection.ts";
import { definitions, kind, type KubernetesObject } from "../src/platforms/kubernetes/kinds.ts";
import { type ApiServer, apiServerPrograms, startApiServer } from "./api-server.ts";

export const manifests = resolve(import.meta.dirname, "../deploy/kubernetes");

/** Applied here: what needs no node. */
const applied = ["crd.yml", "ssu-crd.yml", "rbac.yml"];
const establishedMs = 30_000;

export type BareCluster = AsyncDisposable &
  Readonly<{
    server: ApiServer;
    /** As an administrator sees it. */
    admin: Cluster;
    connect(kubeconfig: string): Promise<Cluster>;
    /** Makes an object of any kind, as an administrator. */
    make(object: KubernetesObject & { kind: string; [field: string]: unknown }): Promise<void>;
    /** A token of a service account, for an audience of its own where one is named. */
    tokenOf(account: string, options?: { namespace?: string; audience?: string }): Promise<string>;
    /** The cluster as one of its service accounts sees it. */
    as(account: string, namespace?: string): Promise<Cluster>;
  }>;

const kindOf = ({ apiVersion = "", kind: name }: { apiVersion?: string; kind: string }) => {
  const clusterWide = /^(Cluster|CustomResource|RuntimeClass|ValidatingAdmission|Namespace)/.test(name);
  const plural = `${name.toLowerCase().replace(/y$/, "ie").replace(/s$/, "se")}s`;
  return kind<KubernetesObject>(apiVersion, name, plural, !clusterWide);
};

type TokenRequest = KubernetesObject & { status?: { token: string }; spec?: object };

/** Resolves when the definitions can be used. */
export async function startBareCluster(): Promise<BareCluster> {
  const programs = apiServerPrograms();
  if (!programs) throw new Error("kube-apiserver and etcd have not been built yet.");
  await using undo = new AsyncDisposableStack();
  const server = undo.use(await startApiServer(programs));
  const opened: Cluster[] = [];
  undo.defer(() => opened.forEach((cluster) => cluster.close()));
  const connect = async (kubeconfig: string) => {
    const cluster = openCluster(await connectByKubeconfig(kubeconfig));
    opened.push(cluster);
    return cluster;
  };
  const admin = await connect(server.kubeconfig);
  const make: BareCluster["make"] = async (object) => void (await admin.create(kindOf(object), object, { strict: true }));
  for (const file of applied)
    for (const object of loadAll(readFileSync(join(manifests, file), "utf8")) as (KubernetesObject & { kind: string })[])
      await make(object);
  await established(admin);
  // A token comes from a subresource, which UMS itself never asks for.
  const tokenOf: BareCluster["tokenOf"] = async (account, { namespace = "default", audience } = {}) => {
    const tokens = kind<TokenRequest>("v1", "TokenRequest", `serviceaccounts/${account}/token`);
    const spec = { expirationSeconds: 3600, ...(audience === undefined ? {} : { audiences: [audience] }) };
    const made = await admin.create(tokens, { apiVersion: "authentication.k8s.io/v1", spec }, { namespace });
    return made.status?.token ?? "";
  };
  const owned = undo.move();
  return {
    server,
    admin,
    connect,
    make,
    tokenOf,
    as: async (account, namespace = "default") => await connect(await server.kubeconfigFor(await tokenOf(account, { namespace }))),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function established(admin: Cluster): Promise<void> {
  for (const until = Date.now() + establishedMs; Date.now() < until; await sleep(200)) {
    const { items } = await admin.list(definitions, { namespace: undefined });
    const ready = items.filter((each) => each.status?.conditions?.some(({ type, status }) => type === "Established" && status === "True"));
    if (ready.length === 2) return;
  }
  throw new Error("The definitions were not established.");
}
