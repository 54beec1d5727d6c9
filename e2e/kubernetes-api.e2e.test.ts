/** The original's API on real clusters: who gets in, its contract, plain HTTP where it is asked for, and Podmigrations. */
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { containerImages } from "../setup/container-images.ts";
import { describeOriginalApi } from "../src/apps/coordinator/original.contract.ts";
import { type ClusterSite, type ClusterSites, createClusterSites } from "./cluster-sites.ts";
import type { Wan } from "./wan.ts";

const manifests = resolve(import.meta.dirname, "../deploy/kubernetes");

let sites: ClusterSites | undefined;
let a: ClusterSite;
let b: ClusterSite;
let wan: Wan;
beforeAll(async () => {
  sites = await createClusterSites({ images: await containerImages(["memhog"]) });
  ({ a, b } = sites);
  ({ wan } = sites.clusters);
  for (const { cluster, apply } of [a, b]) {
    for (const name of ["nobody", "mover"]) await cluster.kubectl(["create", "serviceaccount", name]);
    await cluster.kubectl(["create", "clusterrole", "mover", "--verb=create,list", "--resource=migrations.ums.dev"]);
    await cluster.kubectl(["create", "clusterrolebinding", "mover", "--clusterrole=mover", "--serviceaccount=default:mover"]);
    // As the original's sample has it.
    if (cluster === a.cluster) await apply(memhog);
  }
  await a.cluster.kubectl(["wait", "--for=condition=Ready", "pod/memhog", "--timeout=60s"], { timeoutMs: 70_000 });
}, 300_000);
afterAll(() => sites?.[Symbol.asyncDispose]());

const memhog = {
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name: "memhog", annotations: { "migration-interface": "ssu" } },
  spec: {
    serviceAccountName: "migration-coordinator",
    containers: [{ name: "memhog", image: "ghcr.io/hpcclab/nims/memhog:main", env: [{ name: "MEMORY_LIMIT", value: "16" }] }],
  },
};

const addressOf = ({ cluster }: ClusterSite) => `${cluster.nodes[0].address}:30001`;
const tokenOf = async ({ cluster }: ClusterSite, account: string) => (await cluster.kubectl(["create", "token", account])).stdout;
const isAt = async ({ cluster }: ClusterSite) => (await cluster.kubectl(["get", "pod/memhog"], { reject: false })).exitCode === 0;
const migrationsOf = async ({ cluster }: ClusterSite) =>
  (await cluster.kubectl(["get", "migrations", "--output=name"])).stdout.split("\n").filter(Boolean).length;
/** Counts on where it was: each line is one more than the one before. */
const countsOf = async ({ cluster }: ClusterSite, pod = "memhog") =>
  [...(await cluster.kubectl(["logs", pod])).stdout.matchAll(/Counter: (\d+)$/gm)].map(([, count]) => Number(count));

type Request = Readonly<{ scheme?: "http" | "https"; token?: string; body?: unknown }>;

/** curl, as somebody outside of both clusters runs it. */
function curlArguments(site: ClusterSite, [method, path]: readonly [string, string], { scheme = "https", token, body }: Request) {
  return [
    // A pod that has just ended answers nothing until kube-proxy has followed.
    ...["curl", "--silent", "--insecure", "--no-buffer", "--connect-timeout", "2", "--request", method],
    ...(token === undefined ? [] : ["--header", `Authorization: Bearer ${token}`]),
    ...(body === undefined ? [] : ["--header", "Content-Type: application/json", "--data-binary", "@-"]),
    `${scheme}://${addressOf(site)}${path}`,
  ];
}
async function curl(site: ClusterSite, target: readonly [string, string], request: Request = {}) {
  const [program = "", ...args] = curlArguments(site, target, request);
  const { body } = request;
  const input = body === undefined ? {} : { input: typeof body === "string" ? body : JSON.stringify(body) };
  const write = ["--write-out", "\n%{http_code} %{content_type}"];
  const { stdout } = await wan.exec([program, ...write, ...args], { ...input, timeoutMs: 150_000, reject: false });
  const end = stdout.lastIndexOf("\n");
  const [status = "0", ...type] = stdout.slice(end + 1).split(" ");
  return { status: Number(status), type: type.join(" "), text: stdout.slice(0, Math.max(0, end)) };
}

describe("the coordinator's port", () => {
  test("asks people for a token, and for the right to make or list migrations", async () => {
    expect(await curl(a, ["GET", "/list"])).toMatchObject({ status: 401 });
    expect(await curl(a, ["GET", "/list"], { token: "bm9ib2R5" })).toMatchObject({ status: 401 });
    const nobody = await tokenOf(a, "nobody");
    const body = { name: "memhog", namespace: "default", destinationUrl: addressOf(b) };
    expect(await curl(a, ["GET", "/list"], { token: nobody })).toMatchObject({ status: 403 });
    expect(await curl(a, ["POST", "/migrate"], { token: nobody, body })).toMatchObject({ status: 403 });
    expect(await curl(a, ["POST", "/migrate"], { body })).toMatchObject({ status: 401 });
    expect(await curl(a, ["POST", "/sites/pairing-code"], { token: nobody })).toMatchObject({ status: 403 });
    expect(await curl(a, ["GET", "/list"], { token: await tokenOf(a, "mover") })).toMatchObject({ status: 200 });
    expect([await migrationsOf(a), await isAt(a)]).toEqual([0, true]);
  });

  test("speaks no plain HTTP unless it is told to", async () => {
    for (const site of [a, b]) expect(await curl(site, ["GET", "/healthcheck"], { scheme: "http" })).toMatchObject({ status: 0 });
  });
});

describeOriginalApi(
  "a cluster's coordinator, by TLS and a token,",
  async () => {
    const token = await tokenOf(a, "mover");
    return {
      pod: { name: "memhog", namespace: "default" },
      destinationUrl: addressOf(b),
      call: (method, path, body) => curl(a, [method, path], { token, body }),
      async stream(path) {
        const process = await wan.spawn([...curlArguments(a, ["GET", path], { token }), "--include"]);
        await process.waitForLine(/^: listening/);
        const type = /^content-type: (.*)$/im.exec(process.output())?.[1] ?? "";
        return { type, text: () => process.output().replaceAll("\r", ""), close: () => process.kill() };
      },
      migrations: () => migrationsOf(a),
      isHere: () => isAt(a),
    };
  },
  180_000,
);

describe("afterwards", () => {
  test("memhog counts on at the destination, where it can be moved on or deleted at once", async () => {
    await b.cluster.kubectl(["wait", "--for=condition=Ready", "pod/memhog", "--timeout=1s"]);
    await sleep(2_000);
    const counts = await countsOf(b);
    expect(counts).toEqual(counts.map((_, index) => index));
  });

  test("with UNSAFE_HTTP the original's call runs as it was written; sites go on by TLS on the same port", async () => {
    await b.cluster.kubectl(["set", "env", "deployment/migration-coordinator", "UNSAFE_HTTP=true"]);
    const rollout = ["rollout", "status", "deployment/migration-coordinator", "--timeout=120s"];
    await b.cluster.kubectl(rollout, { timeoutMs: 130_000 });
    // The old ones may answer for as long as they take to end.
    await expect.poll(async () => (await curl(b, ["GET", "/healthcheck"], { scheme: "http" })).text, { timeout: 30_000 }).toBe("OK");
    await sleep(3_000);
    // The original's endpoints are all that there is.
    const missing = { status: 400, text: expect.stringContaining("There is no") };
    expect(await curl(b, ["POST", "/sites/pairing-code"], { scheme: "http" })).toMatchObject(missing);
    expect(await curl(b, ["GET", "/migrations"], { scheme: "http" })).toMatchObject(missing);
    expect(await curl(b, ["GET", "/list"])).toMatchObject({ status: 401 });
    const body = { name: "memhog", namespace: "default", destinationUrl: addressOf(a) };
    const { status, text } = await curl(b, ["POST", "/migrate"], { scheme: "http", body });
    expect(status, text).toBe(200);
    expect(JSON.parse(text)).toMatchObject({ des_pod: { metadata: { name: "memhog" } } });
    expect([await isAt(a), await isAt(b)]).toEqual([true, false]);
  });
});

describe("a Podmigration", () => {
  const statusOf = async (name: string, { cluster } = a) => {
    const { stdout } = await cluster.kubectl(["get", `podmigration/${name}`, "--output=jsonpath={.status}"]);
    return stdout === "" ? {} : (JSON.parse(stdout) as { state?: string; activePod?: string; currentRevision?: string; message?: string });
  };
  const ask = async (body: object) => curl(a, ["POST", "/Podmigrations"], { token: await tokenOf(a, "mover"), body });
  const ended = async (name: string, site = a) => {
    await expect.poll(async () => (await statusOf(name, site)).state, { timeout: 120_000 }).toMatch(/^(Completed|Failed)$/);
    return statusOf(name, site);
  };

  test.each([
    [{ action: "live-migration", sourcePod: "memhog", destHost: "nowhere" }, /^SITE_NOT_FOUND: .*nowhere/],
    [{ action: "live-migration", sourcePod: "memhog", destHost: "a-1" }, /runs on node a-1 already/],
    [{ action: "live-migration", sourcePod: "memhog" }, /needs sourcePod and destHost/],
    [{ action: "live-migration", sourcePod: "nobody", destHost: "b" }, /^SERVICE_NOT_FOUND: /],
    [{ action: "checkpoint", sourcePod: "memhog", snapshotPath: "/var/lib/kubelet/migration/memhog" }, /checkpoint is not there yet/],
    [{ action: "restore", snapshotPath: "/var/lib/kubelet/migration/memhog" }, /restore is not there yet/],
  ])("%j is refused with its reason, and touches nothing", async (spec, reason) => {
    const name = `refused-${Math.random().toString(36).slice(2, 8)}`;
    expect(await ask({ name, replicas: 1, ...spec })).toMatchObject({ status: 200 });
    expect(await ended(name)).toMatchObject({ state: "Failed", message: expect.stringMatching(reason) });
    expect(await isAt(a)).toBe(true);
  });

  test("of no documented form is refused", async () => {
    for (const body of [{ name: "x" }, { name: "x;id", action: "checkpoint" }, { name: "x", action: "explode" }, "{"])
      expect(await curl(a, ["POST", "/Podmigrations"], { token: await tokenOf(a, "mover"), body })).toMatchObject({ status: 400 });
  });

  test("moves a pod to another site, tells its end, and lets go of everything when it is deleted", async () => {
    await a.apply({
      apiVersion: "podmig.dcn.ssu.ac.kr/v1",
      kind: "Podmigration",
      metadata: { name: "away" },
      spec: { action: "live-migration", selector: { podmig: "dcn" }, replicas: 1, sourcePod: "memhog", destHost: addressOf(b) },
    });
    const status = await ended("away");
    expect(status).toMatchObject({ state: "Completed", activePod: "memhog", currentRevision: expect.stringMatching(/^mig-/) });
    expect([await isAt(a), await isAt(b)]).toEqual([false, true]);
    await a.cluster.kubectl(["delete", "podmigration/away"]);
    const migration = async () => (await a.cluster.kubectl(["get", `migration/${status.currentRevision}`], { reject: false })).exitCode;
    await expect.poll(migration, { timeout: 30_000 }).toBe(1);
  });

  test("moves a pod to another node of its cluster, under another name", async () => {
    const nodeOf = async (pod: string) => (await b.cluster.kubectl(["get", `pod/${pod}`, "--output=jsonpath={.spec.nodeName}"])).stdout;
    const here = await nodeOf("memhog");
    const there = b.cluster.nodes.map(({ name }) => name).find((name) => name !== here) ?? "";
    await b.apply({
      apiVersion: "podmig.dcn.ssu.ac.kr/v1",
      kind: "Podmigration",
      metadata: { name: "across" },
      spec: { action: "live-migration", selector: { podmig: "dcn" }, replicas: 1, sourcePod: "memhog", destHost: there },
    });
    const status = await ended("across", b);
    expect(status).toMatchObject({ state: "Completed", activePod: expect.stringMatching(/^memhog-migration-[0-9a-f]{4}$/) });
    const copy = status.activePod ?? "";
    expect([await isAt(b), await nodeOf(copy)]).toEqual([false, there]);
    await b.cluster.kubectl(["wait", "--for=condition=Ready", `pod/${copy}`, "--timeout=30s"]);
    await sleep(2_000);
    const counts = await countsOf(b, copy);
    expect(counts.length).toBeGreaterThan(5);
    expect(counts).toEqual(counts.map((_, index) => index));
  });

  test("is listed as the original listed it", async () => {
    const { status, text } = await curl(a, ["GET", "/Podmigrations"], { token: await tokenOf(a, "mover") });
    expect(status).toBe(200);
    expect(JSON.parse(text)).toContainEqual(expect.objectContaining({ kind: "Podmigration" }));
  });
});

describe("removed as docs/kubernetes.md says,", () => {
  const interfacesOf = async ({ cluster }: ClusterSite, ...selection: string[]) =>
    (await cluster.kubectl(["get", "pods", "--selector=app=ssu-interface", ...selection, "--output=name"])).stdout.split("\n");
  /** containerd's restart ends the command's connection, so its exit code tells nothing. */
  const removeFrom = async ({ cluster }: ClusterSite, pod: string) =>
    (await cluster.kubectl(["exec", pod, "--", "ums", "interface", "--remove"], { reject: false })).stderr;

  test("but not from a node on which a pod runs that came by migration", async () => {
    const template = "--output=jsonpath={.items[?(@.spec.runtimeClassName=='ums')].spec.nodeName}";
    const [node = ""] = (await b.cluster.kubectl(["get", "pods", template])).stdout.split(" ");
    const [pod = ""] = await interfacesOf(b, `--field-selector=spec.nodeName=${node}`);
    expect(await removeFrom(b, pod)).toContain("on this node run by /opt/ums/bin/ums-runc");
  });

  test("UMS leaves nothing behind, in the cluster or on a node", async () => {
    await b.cluster.kubectl([
      "delete",
      "pods",
      "--selector=app notin (migration-coordinator,migration-operator,ssu-interface)",
      "--grace-period=1",
    ]);
    for (const site of [a, b]) {
      const { cluster } = site;
      await cluster.kubectl(["delete", "podmigrations,migrations", "--all", "--all-namespaces"]);
      // A sandbox may outlive its pod for a moment.
      for (const pod of await interfacesOf(site))
        await expect.poll(() => removeFrom(site, pod), { timeout: 30_000 }).not.toContain("on this node run by");
      const files = ["ssu", "ssu-crd", "deployment", "rbac", "crd"].map((name) => `--filename=${manifests}/${name}.yml`);
      await cluster.kubectl(["delete", "--wait", ...files], { timeoutMs: 120_000 });
      await cluster.kubectl(["label", "nodes", "--all", "ums.dev/restores-"]);
      await cluster.kubectl(["delete", "lease", "migration-operator"]);
      const kinds = "pods,services,deployments,daemonsets,configmaps,secrets,roles,rolebindings,leases,poddisruptionbudgets";
      const all = `${kinds},clusterroles,clusterrolebindings,customresourcedefinitions,runtimeclasses,nodes`;
      const find = async () => (await cluster.kubectl(["get", all, "--show-labels", "--no-headers"])).stdout;
      await expect.poll(find, { timeout: 60_000 }).not.toMatch(/\bums\b|\bssu-|\bmigration-/);
      for (const node of cluster.nodes) {
        const places = ["/opt", "/run", "/var/lib", "/dev/shm", "/etc/containerd"];
        const found = async () => (await node.exec(["find", ...places, "-maxdepth", "1", "-name", "ums*"])).stdout;
        await expect.poll(found, { timeout: 10_000 }).toBe("");
        expect((await node.exec(["grep", "--count", "ums", "/etc/containerd/config.toml"], { reject: false })).stdout).toBe("0");
        expect((await node.exec(["nft", "list", "tables"])).stdout).not.toContain("ums");
        expect((await node.exec(["pgrep", "--full", "ums[.]mjs|ums-runc"], { reject: false })).stdout).toBe("");
      }
    }
  });
});
