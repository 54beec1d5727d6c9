/** The original's API on real clusters: who gets in, its contract, plain HTTP where it is asked for, and Podmigrations. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { containerImages } from "../setup/container-images.ts";
import { describeOriginalApi } from "../src/apps/coordinator/original.contract.ts";
import { type MigrationObject, migrations } from "../src/platforms/kubernetes/migration.ts";
import { type Pod, pods } from "../src/platforms/kubernetes/kinds.ts";
import { startClient } from "./client.ts";
import { atBreakpoint, migrationIn } from "./cluster-migrations.ts";
import { knowing } from "./cluster-people.ts";
import { type ClusterSite, type ClusterSites, createClusterSites } from "./cluster-sites.ts";
import { type Traces, tracesIn, tracesSince } from "./cluster-traces.ts";
import { processesNamed } from "./disturbance.ts";
import { redisImage, redisNodePort, startRedisPod } from "./redis-pod.ts";
import { comeInNumbers } from "./stranger.ts";
import type { Wan } from "./wan.ts";

const manifests = resolve(import.meta.dirname, "../deploy/kubernetes");

let sites: ClusterSites | undefined;
let a: ClusterSite;
let b: ClusterSite;
let wan: Wan;
beforeAll(async () => {
  sites = await createClusterSites({ images: [...(await containerImages(["memhog"])), await redisImage()] });
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
const tokenOf = async ({ cluster }: ClusterSite, account: string) =>
  (await cluster.kubectl(["create", "token", account, "--audience=ums"])).stdout;
const isAt = async ({ cluster }: ClusterSite) => (await cluster.api.get(pods, "memhog")) !== undefined;
const migrationsOf = async ({ cluster }: ClusterSite) => (await cluster.api.list(migrations)).length;
/** Counts on where it was: each line is one more than the one before. */
const countsOf = async ({ cluster }: ClusterSite, pod = "memhog") =>
  [...(await cluster.kubectl(["logs", pod])).stdout.matchAll(/Counter: (\d+)$/gm)].map(([, count]) => Number(count));

type Request = Readonly<{ scheme?: "http" | "https"; token?: string; body?: unknown }>;

/** curl, as somebody outside of both clusters runs it. */
async function curlArguments(site: ClusterSite, [method, path]: readonly [string, string], { scheme = "https", token, body }: Request) {
  return [
    // A pod that has just ended answers nothing until kube-proxy has followed.
    ...["curl", "--silent", "--no-buffer", "--connect-timeout", "2", "--request", method],
    ...(scheme === "https" ? await knowing(site) : []),
    ...(token === undefined ? [] : ["--header", `Authorization: Bearer ${token}`]),
    ...(body === undefined ? [] : ["--header", "Content-Type: application/json", "--data-binary", "@-"]),
    `${scheme}://${scheme === "https" ? "ums" : addressOf(site)}${path}`,
  ];
}
async function curl(site: ClusterSite, target: readonly [string, string], request: Request = {}) {
  const [program = "", ...args] = await curlArguments(site, target, request);
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

  test("stays open to sites, and no part is restarted, while strangers fill it and the nodes' ports for data", async () => {
    const [{ address: host }] = b.cluster.nodes;
    const numbers = { count: 2_000, perSecond: 500 };
    const crowds = await Promise.all([30_001, 30_002].map((port) => comeInNumbers(wan, { host, port, ...numbers })));
    const columns = "--output=jsonpath={range .items[*].status.containerStatuses[*]}{.name} {.ready} {.restartCount}{'\\n'}{end}";
    const states = async () => new Set((await b.cluster.kubectl(["get", "pods", columns])).stdout.split("\n").filter(Boolean));
    for (const until = Date.now() + 20_000; Date.now() < until; await sleep(1_000)) {
      expect(await states()).toEqual(new Set(["coordinator true 0", "operator true 0", "interface true 0"]));
      expect(await a.json(["sites"])).toMatchObject([{ name: b.name, reachable: true }]);
    }
    for (const crowd of crowds) crowd.kill("SIGKILL");
    await Promise.all(crowds.map(({ exited }) => exited));
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
        const process = await wan.spawn([...(await curlArguments(a, ["GET", path], { token })), "--include"]);
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

type PodmigrationStatus = { state?: string; activePod?: string; currentRevision?: string; message?: string };
const podmigrationStatus = async (name: string, { cluster }: ClusterSite, namespace = "default") => {
  const { stdout } = await cluster.kubectl([
    "get",
    `podmigration/${name}`,
    `--namespace=${namespace}`,
    "--output=jsonpath={.status}",
    "--ignore-not-found",
  ]);
  return stdout === "" ? {} : (JSON.parse(stdout) as PodmigrationStatus);
};
const podmigrationEnd = async (name: string, site: ClusterSite, namespace = "default") => {
  const state = async () => (await podmigrationStatus(name, site, namespace)).state;
  await expect.poll(state, { timeout: 120_000 }).toMatch(/^(Completed|Failed)$/);
  return podmigrationStatus(name, site, namespace);
};

describe("a Podmigration", () => {
  const ask = async (body: object) => curl(a, ["POST", "/Podmigrations"], { token: await tokenOf(a, "mover"), body });
  const ended = (name: string, site = a) => podmigrationEnd(name, site);

  const root = "/var/lib/kubelet/migration";
  test.each([
    [{ action: "live-migration", sourcePod: "memhog", destHost: "nowhere" }, /^SITE_NOT_FOUND: .*nowhere/],
    [{ action: "live-migration", sourcePod: "memhog", destHost: "a-1" }, /runs on node a-1 already/],
    [{ action: "live-migration", sourcePod: "memhog" }, /needs sourcePod and destHost/],
    [{ action: "live-migration", sourcePod: "nobody", destHost: "b" }, /^SERVICE_NOT_FOUND: /],
    [{ action: "checkpoint", snapshotPath: `${root}/memhog` }, /needs sourcePod/],
    [{ action: "checkpoint", sourcePod: "nobody", snapshotPath: `${root}/memhog` }, /^SERVICE_NOT_FOUND: /],
    [{ action: "checkpoint", sourcePod: "memhog", snapshotPath: "/etc/memhog" }, /^BAD_REQUEST: snapshotPath must be below/],
    [{ action: "checkpoint", sourcePod: "memhog", snapshotPath: `${root}/.memhog` }, /^BAD_REQUEST: /],
    [{ action: "restore" }, /needs snapshotPath/],
    [{ action: "restore", snapshotPath: `${root}/none` }, /^SNAPSHOT_NOT_FOUND: /],
    [{ action: "restore", snapshotPath: `${root}/none`, destHost: "b-1" }, /^BAD_REQUEST: .*destHost/],
    [{ action: "restore", snapshotPath: `${root}/none`, replicas: 0 }, /^BAD_REQUEST: .*replicas/],
  ])("%j is refused with its reason, and touches nothing", async (spec, reason) => {
    const name = `refused-${Math.random().toString(36).slice(2, 8)}`;
    expect(await ask({ name, replicas: 1, ...spec })).toMatchObject({ status: 200 });
    expect(await ended(name)).toMatchObject({ state: "Failed", message: expect.stringMatching(reason) });
    expect(await isAt(a)).toBe(true);
    expect((await a.cluster.nodes[0].exec(["ls", root], { reject: false })).exitCode).not.toBe(0);
  });

  test("of no documented form is refused", async () => {
    const upwards = { name: "x", action: "checkpoint", sourcePod: "memhog", snapshotPath: `${root}/../pods/memhog` };
    for (const body of [{ name: "x" }, { name: "x;id", action: "checkpoint" }, { name: "x", action: "explode" }, upwards, "{"])
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
    await expect.poll(() => a.cluster.api.get(migrations, status.currentRevision ?? ""), { timeout: 30_000 }).toBeUndefined();
  });

  test("moves a pod to another node of its cluster, under another name", async () => {
    const nodeOf = async (pod: string) => (await b.cluster.api.get(pods, pod))?.spec?.nodeName;
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

describe("a snapshot of a pod", () => {
  const root = "/var/lib/kubelet/migration";
  const place = `${root}/kkk/memhog`;
  const image = "ghcr.io/hpcclab/nims/memhog:main";
  let node: (typeof a.cluster.nodes)[0];
  let before: Traces;

  beforeAll(async () => {
    [node] = a.cluster.nodes;
    await a.cluster.kubectl(["delete", "pod/memhog", "--ignore-not-found", "--grace-period=1"]);
    before = await tracesIn(a);
    await a.apply(memhog);
    await ready("memhog");
  }, 60_000);

  const podmigrate = (name: string, spec: object, namespace = "default") =>
    a.apply({
      apiVersion: "podmig.dcn.ssu.ac.kr/v1",
      kind: "Podmigration",
      metadata: { name, namespace },
      spec: { selector: { podmig: "dcn" }, ...spec },
    });
  const carriedOut = async (name: string, spec: object) => {
    await podmigrate(name, spec);
    return podmigrationEnd(name, a);
  };
  const ready = (pod: string, { cluster } = a) =>
    cluster.kubectl(["wait", "--for=condition=Ready", `pod/${pod}`, "--timeout=60s"], { timeoutMs: 70_000 });
  const podCalled = async (pod: string) => JSON.parse((await a.cluster.kubectl(["get", "pod", pod, "--output=json"])).stdout) as Pod;
  const removePods = (...pods: string[]) => a.cluster.kubectl(["delete", "pods", ...pods, "--grace-period=1"]);
  const counts = async (pod: string) => (await countsOf(a, pod)).length;

  /** It counts on where it was, in the same process. */
  async function expectCounting(pod: string, site = a): Promise<void> {
    await ready(pod, site); // the kubelet tells of it a moment later
    const { length } = await countsOf(site, pod);
    await expect.poll(async () => (await countsOf(site, pod)).length, { timeout: 10_000 }).toBeGreaterThan(length + 1);
    const now = await countsOf(site, pod);
    expect(now).toEqual(now.map((_, index) => index));
    const { stdout } = await site.cluster.kubectl(["get", "pod", pod, "--output=jsonpath={.status.containerStatuses[*].restartCount}"]);
    expect(stdout).toBe("0");
  }

  test("is written while it goes on counting, and is root's alone", async () => {
    await expect.poll(() => counts("memhog"), { timeout: 10_000 }).toBeGreaterThan(2);
    const status = await carriedOut("kept", { action: "checkpoint", sourcePod: "memhog", snapshotPath: place });
    const message = expect.stringMatching(/^Node a-1 has the snapshot in \S+: \d+ MiB\. The pod stood still for \d+ ms\.$/);
    expect(status).toEqual({ state: "Completed", activePod: "memhog", currentRevision: place, message });
    await expectCounting("memhog");
    const { stdout } = await node.exec(["find", root, "-maxdepth", "2", "-printf", "%P %m %u\n"]);
    expect(stdout.split("\n").filter(Boolean).toSorted()).toEqual([" 700 root", "kkk 700 root", "kkk/memhog 700 root"]);
  });

  test("becomes two pods that count on from there, while the first one counts on, too", async () => {
    const template = { metadata: { labels: { name: "copy" } }, spec: { containers: [{ name: "memhog", image }] } };
    const status = await carriedOut("twice", { action: "restore", snapshotPath: place, replicas: 2, template });
    expect(status).toMatchObject({ state: "Completed", currentRevision: expect.stringMatching(/^mig-[0-9a-f]{12},mig-[0-9a-f]{12}$/) });
    const copies = (status.activePod ?? "").split(",");
    expect(copies).toEqual([0, 1].map((at) => expect.stringMatching(new RegExp(`^memhog-migration-[0-9a-f]{8}-${at}$`))));
    for (const copy of copies) {
      await expectCounting(copy);
      const { metadata, spec } = await podCalled(copy);
      expect(metadata?.labels).toEqual({ name: "copy", podmig: "dcn" });
      expect(metadata?.annotations).not.toHaveProperty("ums.dev/restore");
      expect(spec?.nodeName).toBe("a-1");
    }
    expect((await counts("memhog")) - (await counts(copies[0] ?? ""))).toBeGreaterThan(1);
    await expectCounting("memhog");
    const [revision = ""] = (status.currentRevision ?? "").split(",");
    const restored = await migrationIn(a, revision);
    expect(restored.status).toMatchObject({ phase: "Succeeded", message: `${copies[0]} was restored at a from ${place} of node a-1` });
    expect(restored.status).not.toHaveProperty("heldMs");
    await a.cluster.kubectl(["delete", "podmigration/twice"]);
    const { exitCode } = await a.cluster.kubectl(["wait", "--for=delete", `migration/${revision}`, "--timeout=30s"], { timeoutMs: 40_000 });
    expect(exitCode).toBe(0);
    for (const copy of copies) await expectCounting(copy);
    await removePods(...copies);
  });

  test("is there to be restored again, and can itself be of a pod that was restored", async () => {
    const again = await carriedOut("again", { action: "restore", snapshotPath: place, sourcePod: "memhog", destHost: "a-1" });
    expect(again).toMatchObject({ state: "Completed", activePod: expect.stringMatching(/^memhog-migration-[0-9a-f]{8}$/) });
    const copy = again.activePod ?? "";
    await expectCounting(copy);
    expect(await carriedOut("kept-copy", { action: "checkpoint", sourcePod: copy })).toMatchObject({
      state: "Completed",
      currentRevision: `${root}/kept-copy`,
    });
    await expectCounting(copy);
    await removePods(copy);
    const of = await carriedOut("of-copy", { action: "restore", snapshotPath: `${root}/kept-copy/` });
    expect(of).toMatchObject({ state: "Completed", activePod: expect.stringMatching(/^memhog-migration-[0-9a-f]{8}$/) });
    expect(of.activePod).not.toBe(copy);
    await expectCounting(of.activePod ?? "");
    await removePods(of.activePod ?? "");
  });

  test("becomes a pod of another site by a Migration", async () => {
    const migration = (spec: object) => ({ apiVersion: "ums.dev/v1", kind: "Migration", metadata: { name: "there" }, spec });
    const spec = { pod: "memhog-there", destination: "b", snapshot: { node: "a-1", path: place } };
    const { stderr } = await a.cluster.kubectl(["create", "--filename=-"], {
      input: JSON.stringify(migration({ ...spec, snapshot: { node: "a-1", path: "/etc/memhog" } })),
      reject: false,
    });
    expect(stderr).toContain("spec.snapshot.path");
    await a.apply(migration(spec));
    await a.cluster.kubectl(["wait", "--for=condition=Succeeded", "migration/there", "--timeout=60s"], { timeoutMs: 70_000 });
    await expectCounting("memhog-there", b);
    await b.cluster.kubectl(["delete", "pod/memhog-there", "--grace-period=1"]);
  });

  test.each([
    [{ action: "checkpoint", sourcePod: "memhog", snapshotPath: place }, /^SNAPSHOT_EXISTS: /],
    [{ action: "checkpoint", sourcePod: "memhog", snapshotPath: `${place}/images` }, /^BAD_REQUEST: .*is a snapshot/],
    [{ action: "restore", snapshotPath: `${root}/kkk` }, /^SNAPSHOT_NOT_FOUND: /],
    [{ action: "restore", snapshotPath: place, sourcePod: "other" }, /^SNAPSHOT_DIFFERS: .*memhog/],
    [
      { action: "restore", snapshotPath: place, template: { spec: { containers: [{ name: "memhog", image: "x" }] } } },
      /^SNAPSHOT_DIFFERS: /,
    ],
  ])("is neither overwritten nor restored as something else: %j", async (spec, reason) => {
    const name = `refused-${Math.random().toString(36).slice(2, 8)}`;
    expect(await carriedOut(name, spec)).toMatchObject({ state: "Failed", message: expect.stringMatching(reason) });
    await expectCounting("memhog");
  });

  test("is nobody's in another namespace", async () => {
    await a.cluster.kubectl(["create", "namespace", "elsewhere"]);
    await podmigrate("stolen", { action: "restore", snapshotPath: place }, "elsewhere");
    expect(await podmigrationEnd("stolen", a, "elsewhere")).toMatchObject({
      state: "Failed",
      message: expect.stringMatching(/^SNAPSHOT_NOT_FOUND: /),
    });
    const spec = { pod: "stolen", destination: "a", snapshot: { node: "a-1", path: place } };
    await a.apply({ apiVersion: "ums.dev/v1", kind: "Migration", metadata: { name: "stolen", namespace: "elsewhere" }, spec });
    const migration = async () => {
      const { stdout } = await a.cluster.kubectl(["get", "migration/stolen", "--namespace=elsewhere", "--output=json"]);
      return (JSON.parse(stdout) as MigrationObject).status?.error?.code;
    };
    await expect.poll(migration, { timeout: 30_000 }).toBe("SNAPSHOT_NOT_FOUND");
    await a.cluster.kubectl(["delete", "namespace", "elsewhere"], { timeoutMs: 60_000 });
  });

  test("stays as it is when a restore of it is undone, of which nothing else stays", async () => {
    const spec = { pod: "memhog-undone", destination: "a", snapshot: { node: "a-1", path: place } };
    const metadata = { name: "undone", annotations: { "ums.dev/breakpoint": "restore after" } };
    await a.apply({ apiVersion: "ums.dev/v1", kind: "Migration", metadata, spec });
    await atBreakpoint(a, "undone", { step: "restore", moment: "after" });
    await a.cluster.kubectl(["patch", "migration/undone", "--type=merge", "--patch", '{"spec":{"cancel":true}}']);
    await expect.poll(async () => (await migrationIn(a, "undone")).status?.phase, { timeout: 60_000 }).toBe("RolledBack");
    expect((await migrationIn(a, "undone")).status?.error?.code).toBe("CANCELLED");
    expect(await tracesSince([a], [[...before, "a: pod/memhog"]])).toEqual([]);
    await node.exec(["test", "-f", `${place}/snapshot.json`]);
  });

  test("has all containers and volumes, and its copy is not taken for another pod of the controller that owns the first", async () => {
    const script = "n=0; while :; do echo $n | tee -a /disk/n >>/fast/n; n=$((n+1)); sleep 1; done";
    const mounts = ["disk", "fast"].map((name) => ({ name, mountPath: `/${name}` }));
    await a.apply({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "pair" },
      spec: {
        selector: { matchLabels: { app: "pair" } },
        template: {
          metadata: { labels: { app: "pair" } },
          spec: {
            terminationGracePeriodSeconds: 1,
            containers: [
              { name: "memhog", image, env: [{ name: "MEMORY_LIMIT", value: "8" }] },
              { name: "writer", image, command: ["sh", "-c", script], volumeMounts: mounts },
            ],
            volumes: [
              { name: "disk", emptyDir: {} },
              { name: "fast", emptyDir: { medium: "Memory" } },
            ],
          },
        },
      },
    });
    await a.cluster.kubectl(["rollout", "status", "deployment/pair", "--timeout=60s"], { timeoutMs: 70_000 });
    const owned = async () => (await a.cluster.kubectl(["get", "pods", "--selector=app=pair", "--output=name"])).stdout;
    const pod = (await owned()).replace("pod/", "");
    const read = async (name: string, file: string) => {
      const { stdout } = await a.cluster.kubectl(["exec", name, "--container=writer", "--", "cat", file]);
      return stdout.split("\n").filter(Boolean).map(Number);
    };
    await sleep(3_000);
    expect(await carriedOut("pair", { action: "checkpoint", sourcePod: pod })).toMatchObject({ state: "Completed" });
    const written = (await read(pod, "/disk/n")).length;
    const { state, activePod = "" } = await carriedOut("pair-copy", { action: "restore", snapshotPath: `${root}/pair` });
    expect(state).toBe("Completed");
    await ready(activePod);
    await expect.poll(async () => (await read(activePod, "/disk/n")).length, { timeout: 15_000 }).toBeGreaterThan(written);
    for (const name of [pod, activePod]) {
      const { stdout } = await a.cluster.kubectl(["logs", name, "--container=memhog"]);
      const counted = [...stdout.matchAll(/Counter: (\d+)$/gm)].map(([, count]) => Number(count));
      for (const numbers of [counted, await read(name, "/disk/n"), await read(name, "/fast/n")]) {
        expect(numbers.length).toBeGreaterThan(3);
        expect(numbers).toEqual(numbers.map((_, index) => index));
      }
      expect((await podCalled(name)).status?.containerStatuses?.map(({ restartCount }) => restartCount)).toEqual([0, 0]);
    }
    expect((await podCalled(activePod)).metadata?.labels).toEqual({ podmig: "dcn" });
    expect(await owned()).toBe(`pod/${pod}`);
    await a.cluster.kubectl(["delete", "deployment/pair"]);
    await removePods(activePod);
    await a.cluster.kubectl(["wait", "--for=delete", "pod", "--selector=app=pair", "--timeout=30s"], { timeoutMs: 40_000, reject: false });
  });

  test("cuts none of the pod's clients off", async () => {
    await startRedisPod(a, { memoryMiB: 64 });
    const client = await startClient(wan, { host: node.address, port: redisNodePort });
    const { failedConnections } = await client.verify(); // kube-proxy had to follow
    const status = await carriedOut("redis", { action: "checkpoint", sourcePod: "redis" });
    expect(status).toMatchObject({ state: "Completed" });
    await sleep(500);
    const met = await client.stop();
    expect(met).toMatchObject({ cutConnections: 0, failedConnections, lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0 });
    const template = { metadata: { labels: { app: "copy" } } };
    const { activePod = "" } = await carriedOut("redis-copy", { action: "restore", snapshotPath: `${root}/redis`, template });
    await ready(activePod);
    const keys = await a.cluster.kubectl(["exec", activePod, "--", "redis-cli", "dbsize"]);
    expect(Number(keys.stdout)).toBeGreaterThan(64 * 240);
    await removePods("redis", activePod);
    await a.cluster.kubectl(["delete", "service/redis"]);
  });

  describe("that is cut off while it is written", () => {
    const big = {
      ...memhog,
      metadata: { name: "big" },
      spec: { containers: [{ name: "memhog", image, env: ["MEMORY_LIMIT", "MEMORY_INCREMENT"].map((name) => ({ name, value: "256" })) }] },
    };
    const images = () => node.path(`${root}/.big.partial/images/memhog`);
    beforeAll(async () => {
      await a.apply(big);
      await ready("big");
    }, 60_000);

    /** Stops CRIU in the middle of the pod's dump. @returns what lets it go on */
    async function stopDump(): Promise<() => void> {
      for (const until = Date.now() + 60_000; Date.now() < until; await sleep(1)) {
        if (!readFiles(images()).some((file) => /^pages-/.test(file) && statSync(join(images(), file)).size > 0)) continue;
        const [dumping] = processesNamed([node], /criu\.bin dump/);
        if (!dumping) continue;
        process.kill(dumping.pid, "SIGSTOP");
        expect(isMarked()).toBe(true);
        return () => process.kill(dumping.pid, "SIGCONT");
      }
      throw new Error("No dump was seen.");
    }
    const readFiles = (directory: string) => {
      try {
        return readdirSync(directory);
      } catch {
        return [];
      }
    };
    /** Whether the mark is there by which a later interface knows whom to let go. */
    const isMarked = () =>
      readFiles(node.path("/var/lib/ums/work"))
        .filter((name) => name.endsWith(".checkpoint"))
        .some((name) => readFileSync(node.path(`/var/lib/ums/work/${name}/mark.json`), "utf8").includes('"pod":{'));
    async function expectUndone(): Promise<void> {
      await expectCounting("big");
      const left = async () =>
        (await node.exec(["find", root, "/var/lib/ums/work", "-mindepth", "1", "-path", "*big*", "-o", "-name", "*.checkpoint"])).stdout;
      await expect.poll(left, { timeout: 10_000 }).toBe("");
      expect(await tracesSince([a], [[...before, "a: pod/memhog", "a: pod/big"]])).toEqual([]);
    }

    test("by who deletes the Podmigration: the pod goes on, and nothing is left", async () => {
      // It takes all of its memory before it counts.
      await expect.poll(() => counts("big"), { timeout: 30_000 }).toBeGreaterThan(1);
      await podmigrate("big", { action: "checkpoint", sourcePod: "big" });
      const goOn = await stopDump();
      await a.cluster.kubectl(["delete", "podmigration/big"]);
      goOn();
      await expectUndone();
    });

    test("by an interface that is killed: the pod goes on as soon as that is back, and nothing is left", async () => {
      await podmigrate("big", { action: "checkpoint", sourcePod: "big" });
      await stopDump();
      const [own] = processesNamed([node], /ums\S* interface/);
      process.kill(own?.pid ?? 0, "SIGKILL");
      expect(await podmigrationEnd("big", a)).toMatchObject({ state: "Failed", message: expect.stringMatching(/^SITE_UNREACHABLE: /) });
      const isBack = ["rollout", "status", "daemonset/ssu-interface", "--timeout=60s"];
      await expect
        .poll(async () => (await a.cluster.kubectl(isBack, { timeoutMs: 70_000, reject: false })).exitCode, { timeout: 80_000 })
        .toBe(0);
      await expectUndone();
      await a.cluster.kubectl(["delete", "podmigration/big"]);
      expect(await carriedOut("big", { action: "checkpoint", sourcePod: "big" })).toMatchObject({ state: "Completed" });
      await expectCounting("big");
    });
  });

  test("is all that stays on the nodes", async () => {
    await removePods("memhog", "big");
    expect(await tracesSince([a], [before])).toEqual([]);
    const { stdout } = await node.exec(["find", root, "-maxdepth", "2", "-name", ".*"]);
    expect(stdout).toBe("");
  });
});

const interfacesOf = async ({ cluster }: ClusterSite, ...selection: string[]) =>
  (await cluster.kubectl(["get", "pods", "--selector=app=ssu-interface", ...selection, "--output=name"])).stdout.split("\n");

test("whoever takes over a node's interface can't speak for the site, and changes one label of that node alone", async () => {
  const [own, other] = b.cluster.nodes.map(({ name }) => name);
  const [pod = ""] = await interfacesOf(b, `--field-selector=spec.nodeName=${own}`);
  const request = `
    const secrets = "/var/run/secrets/kubernetes.io/serviceaccount/";
    const authorization = "Bearer " + fs.readFileSync(secrets + "token", "utf8");
    const [path, body] = process.argv.slice(1);
    const options = body ? { method: "PATCH", body, headers: { authorization, "content-type": "application/merge-patch+json" } } : { headers: { authorization } };
    fetch("https://" + process.env.KUBERNETES_SERVICE_HOST + path, options).then(async (answer) => console.log(answer.status, (await answer.json()).message));
  `;
  const ask = async (path: string, body?: object) => {
    const authority = "NODE_EXTRA_CA_CERTS=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    const command = ["env", authority, "node", "--eval", request, path, ...(body ? [JSON.stringify(body)] : [])];
    return (await b.cluster.kubectl(["exec", pod, "--", ...command])).stdout;
  };
  const change = (node = "", body: object) => ask(`/api/v1/nodes/${node}?dryRun=All`, body);
  const labels = { "ums.dev/restores": null };
  expect(await change(own, { metadata: { labels } })).toMatch(/^200/);
  expect(await change(other, { metadata: { labels } })).toMatch(/^422 .*its own node alone/);
  const alone = /^422 .*the label ums.dev\/restores alone/;
  expect(await change(own, { metadata: { labels: { ...labels, any: "value" } } })).toMatch(alone);
  expect(await change(own, { metadata: { labels: { "kubernetes.io/hostname": null } } })).toMatch(alone);
  expect(await change(own, { metadata: { annotations: { any: "value" } } })).toMatch(alone);
  expect(await change(own, { metadata: { finalizers: ["example.com/stays"] } })).toMatch(alone);
  // The garbage collector would delete it.
  const ownerReferences = [{ apiVersion: "v1", kind: "ConfigMap", name: "none", uid: "00000000-0000-0000-0000-000000000000" }];
  expect(await change(own, { metadata: { ownerReferences } })).toMatch(alone);
  expect(await change(own, { spec: { unschedulable: true } })).toMatch(alone);
  expect(await ask("/api/v1/namespaces/default/secrets/ums-trust")).toMatch(/^403/);
  expect(await ask("/api/v1/namespaces/default/secrets/ums-trust-nodes")).toMatch(/^200/);
});

describe("removed as docs/kubernetes.md says,", () => {
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
      const policies = "validatingadmissionpolicies,validatingadmissionpolicybindings";
      const all = `${kinds},${policies},clusterroles,clusterrolebindings,customresourcedefinitions,runtimeclasses,nodes`;
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
