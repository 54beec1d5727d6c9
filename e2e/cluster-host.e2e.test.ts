/** A service between a cluster and a host, there and back: what moves, and what is refused because the other side has no words for it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Migration, PlanReport } from "../src/apps/coordinator/schema.ts";
import { podNeed } from "../src/approaches/translation/needs-for-tests.ts";
import { type Pod, pods } from "../src/platforms/kubernetes/kinds.ts";
import { beyondBaseline, withinBaseline } from "../src/preflight/pods-for-tests.ts";
import type { CheckAnswer } from "../src/protocol/conversation.ts";
import type { PodNeed } from "../src/protocol/pod.ts";
import { startClient } from "./client.ts";
import { type ClusterAndHost, createClusterAndHost } from "./cluster-host.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint as setMigrationsBreakpoint } from "./cluster-migrations.ts";
import { type ClusterSite, moved } from "./cluster-sites.ts";
import { type Traces, tracesIn, tracesSince } from "./cluster-traces.ts";
import { atBreakpoint as atHostsBreakpoint, clearBreakpoint, setBreakpoint } from "./disturbance.ts";
import { type Inventory, inventoryChanges } from "./hosts.ts";
import { imageReference } from "./images.ts";
import { askAs, type HostileAnswer } from "./hostile-peer.ts";
import { redisImage, redisNodePort, startRedisPod } from "./redis-pod.ts";
import type { TestSite } from "./sites.ts";

const image = "ghcr.io/hpcclab/ums-test/redis:7";

let sites: ClusterAndHost;
let cluster: ClusterSite;
let host: TestSite;
let before: Readonly<{ cluster: Traces; host: Inventory }>;

beforeAll(async () => {
  sites = await createClusterAndHost({ images: [await redisImage()] });
  ({ cluster, host } = sites);
  await podman("pull", "--quiet", image);
  // What Podman and UMS keep for good after their first time is no trace of a later migration.
  await podman("run", "--detach", "--name=first", "--volume=first:/data", image, "sleep", "infinity");
  await moved(host, cluster, "first");
  await ready("first");
  await moved(cluster, host, "first");
  await podman("rm", "--force", "--time=0", "first");
  await podman("volume", "rm", "first");
  for (const { migration } of await cluster.json<{ migration: string }[]>(["release"])) await cluster.ums(["release", migration]);
  before = { cluster: await tracesIn(cluster), host: await host.host.inventory() };
});
afterAll(() => sites[Symbol.asyncDispose]());
// What a test that failed has left must not fail the next one.
afterEach(async () => {
  await podman("rm", "--all", "--force", "--time=0");
  await podman("volume", "prune", "--force");
  const own = "app notin (migration-coordinator,migration-operator,ssu-interface)";
  await kubectl("delete", "pods", `--selector=${own}`, "--grace-period=1");
  await kubectl("delete", "service/redis", "resourcequota/none", "--ignore-not-found");
});

const kubectl = async (...args: string[]) => (await cluster.cluster.kubectl(args, { timeoutMs: 130_000 })).stdout;
const podman = async (...args: string[]) => (await host.host.podman(args)).stdout;
async function podIn(name: string): Promise<Pod> {
  const found = await cluster.cluster.api.get(pods, name);
  if (!found) throw new Error(`The cluster has no pod ${name}.`);
  return found;
}
const ready = (name: string) => kubectl("wait", "--for=condition=Ready", `pod/${name}`, "--timeout=60s");
/** Writes all the time; what was refused before its first write is no matter. */
async function writingClient(address: string, port: number) {
  const client = await startClient(sites.wan, { host: address, port });
  const { failedConnections } = await client.verify();
  const unharmed = { lostWrites: 0, duplicatedWrites: 0, wrongReplies: 0, failedConnections };
  return {
    verify: async () => expect(await client.verify()).toMatchObject(unharmed),
    stop: async () => expect(await client.stop()).toMatchObject(unharmed),
  };
}

/** Ends what keeps the clients of services that have moved, and looks whether anything else is left. */
async function expectNothingLeft(): Promise<void> {
  for (const site of [cluster, host]) {
    for (const { migration } of await site.json<{ migration: string }[]>(["release"])) {
      const { exitCode, stderr } = await site.ums(["release", migration]);
      expect(exitCode, stderr).toBe(0);
    }
  }
  expect(await tracesSince([cluster], [before.cluster])).toEqual([]);
  await expect.poll(async () => inventoryChanges(before.host, await host.host.inventory()), { timeout: 20_000 }).toEqual([]);
}

test("Redis goes from the cluster to the host and back under a writing client, and is the same Pod again", async () => {
  await startRedisPod(cluster, { memoryMiB: 8 });
  const then = await podIn("redis");
  const client = await writingClient(cluster.cluster.nodes[0].address, redisNodePort);

  await moved(cluster, host, "redis");
  await client.verify();
  expect(await podman("exec", "redis", "redis-cli", "dbsize")).not.toBe("0");
  expect(await podman("port", "redis")).toBe(`6379/tcp -> 0.0.0.0:${redisNodePort}`);

  await moved(host, cluster, "redis");
  await ready("redis");
  await client.stop();
  const now = await podIn("redis");
  const { nodeName: _then, ...specThen } = then.spec ?? {};
  const { nodeName: _now, nodeSelector: _ums, runtimeClassName, ...specNow } = now.spec ?? {};
  expect(runtimeClassName).toBe("ums");
  const withoutImages = (containers: NonNullable<Pod["spec"]>["containers"] = []) => containers.map(({ image: _image, ...rest }) => rest);
  expect({ ...specNow, containers: withoutImages(now.spec?.containers) }).toEqual({
    ...specThen,
    containers: withoutImages(then.spec?.containers),
  });
  expect(now.metadata).toMatchObject({ labels: then.metadata?.labels, annotations: then.metadata?.annotations });
  expect(now.metadata?.annotations).not.toHaveProperty("ums.dev/pod");
  await kubectl("delete", "pod/redis", "service/redis", "--grace-period=1");
  await expectNothingLeft();
});

test("a host's Redis with a volume goes into the cluster and back under a writing client, with its files", async () => {
  const server = ["redis-server", "--save", "", "--protected-mode", "no", "--enable-debug-command", "yes", "--dir", "/data"];
  const options = [
    "--publish=7000:6379",
    "--volume=redis_data:/data",
    "--memory=256m",
    "--env=PRICE=$(5) $$",
    "--user=999:999",
    "--label=team=shop",
  ];
  await podman("run", "--detach", "--name=shop", ...options, image, ...server);
  await podman("exec", "--user=0", "shop", "sh", "-c", "echo file >/data/file; echo layer >/etc/changed; redis-cli set here stays");
  const client = await writingClient(host.host.address, 7000);

  await moved(host, cluster, "shop");
  await client.verify();
  const { spec, metadata } = await podIn("shop");
  expect(metadata?.labels).toEqual({ team: "shop" });
  expect(spec?.containers).toEqual([
    expect.objectContaining({
      name: "shop",
      image: expect.stringMatching(/@sha256:/) as string,
      resources: expect.objectContaining({ limits: { memory: String(256 << 20) } }) as object,
      securityContext: expect.objectContaining({ runAsUser: 999, runAsGroup: 999 }) as object,
    }),
  ]);
  await ready("shop");
  const said = await kubectl("exec", "shop", "--", "sh", "-c", "cat /data/file /etc/changed; redis-cli get here; echo $PRICE");
  expect(said.split("\n").slice(0, 4)).toEqual(["file", "layer", "stays", "$(5) $$"]);

  await moved(cluster, host, "shop");
  await client.stop();
  expect(await podman("port", "shop")).toBe("6379/tcp -> 0.0.0.0:7000");
  expect(await podman("exec", "shop", "sh", "-c", "cat /data/file /etc/changed; redis-cli get here")).toBe("file\nlayer\nstays");
  // A fresh start of it is a container like any other.
  await podman("restart", "--time=0", "shop");
  expect(await podman("exec", "shop", "cat", "/data/file")).toBe("file");
  await podman("rm", "--force", "--time=0", "shop");
  await podman("volume", "rm", "redis_data");
  await expectNothingLeft();
});

describe("refused, and nothing is changed", () => {
  /** What a plan, and the request itself, say. */
  async function expectRefused({
    from,
    to,
    name,
    code,
  }: {
    from: ClusterSite | TestSite;
    to: ClusterSite | TestSite;
    name: string;
    code: string;
  }) {
    const { refusals } = await from.json<PlanReport>(["plan", name, "--to", to.name]);
    expect(refusals).toContainEqual(expect.objectContaining({ code, site: to.name, cure: expect.stringMatching(/./) as string }));
    const migration = await from.json<{ phase: string; error?: { code: string } }>(["migrate", name, "--to", to.name]);
    expect(migration).toMatchObject({ phase: "Failed", error: { code } });
  }

  const main = { name: "main", image, command: ["sleep", "infinity"] };
  const pods: readonly [code: string, why: string, spec: object][] = [
    ["SEVERAL_CONTAINERS", "two containers", { containers: [main, { ...main, name: "second" }] }],
    [
      "NOT_ON_A_HOST",
      "a ConfigMap",
      {
        containers: [{ ...main, volumeMounts: [{ name: "map", mountPath: "/map" }] }],
        volumes: [{ name: "map", configMap: { name: "kube-root-ca.crt" } }],
      },
    ],
    ["NOT_ON_A_HOST", "a preStop hook", { containers: [{ ...main, lifecycle: { preStop: { exec: { command: ["true"] } } } }] }],
  ];
  test.each(pods)("%s: a pod with %s", async (code, _why, spec) => {
    await cluster.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "refused" },
      spec: { terminationGracePeriodSeconds: 1, ...spec },
    });
    await ready("refused");
    const uid = (await podIn("refused")).metadata?.uid;
    await expectRefused({ from: cluster, to: host, name: "refused", code });
    expect((await podIn("refused")).metadata?.uid).toBe(uid);
    await kubectl("delete", "pod/refused");
    await expectNothingLeft();
  });

  const containers: readonly [code: string, why: string, options: readonly string[]][] = [
    ["NOT_IN_A_POD", "a tmpfs", ["--tmpfs=/scratch"]],
    ["NOT_IN_A_POD", "a port for its host alone", ["--publish=127.0.0.1:7001:6379"]],
    ["NOT_IN_A_POD", "an init", ["--init"]],
  ];
  test.each(containers)("%s: a container with %s", async (code, _why, options) => {
    await podman("run", "--detach", "--name=refused", ...options, image, "sleep", "infinity");
    const id = await podman("inspect", "--format={{.Id}}", "refused");
    await expectRefused({ from: host, to: cluster, name: "refused", code });
    expect(await podman("inspect", "--format={{.Id}} {{.State.Status}}", "refused")).toBe(`${id} running`);
    await podman("rm", "--force", "--time=0", "refused");
    await expectNothingLeft();
  });

  test("NAME_UNUSABLE: a container whose name no Pod can have", async () => {
    await podman("run", "--detach", "--name=Refused_1", image, "sleep", "infinity");
    await expectRefused({ from: host, to: cluster, name: "Refused_1", code: "NAME_UNUSABLE" });
    await podman("rm", "--force", "--time=0", "Refused_1");
    await expectNothingLeft();
  });

  test("IMAGE_NOT_IN_REGISTRY: a container whose image the host alone has", async () => {
    await podman("run", "--detach", "--name=local", imageReference("base"), "sleep", "infinity");
    await expectRefused({ from: host, to: cluster, name: "local", code: "IMAGE_NOT_IN_REGISTRY" });
    await podman("rm", "--force", "--time=0", "local");
    await expectNothingLeft();
  });

  test("POD_REFUSED: what the cluster's own policies don't let in", async () => {
    await cluster.apply({ apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "none" }, spec: { hard: { pods: "1" } } });
    await podman("run", "--detach", "--name=refused", image, "sleep", "infinity");
    await expectRefused({ from: host, to: cluster, name: "refused", code: "POD_REFUSED" });
    await kubectl("delete", "resourcequota/none");
    await podman("rm", "--force", "--time=0", "refused");
    await expectNothingLeft();
  });
});

describe("the destination's policy", () => {
  const post = (pod: PodNeed["pod"]) => ({ method: "POST", path: "/peer/check", body: { ...podNeed(), pod } });
  const put = (pod: PodNeed["pod"], at: number) => ({
    method: "PUT",
    path: `/peer/migrations/${`${at}`.padStart(12, "f")}`,
    body: { ...podNeed(), pod },
  });
  const named = ({ metadata, spec }: Pod, more: object = {}) =>
    ({ metadata: { name: "hostile", namespace: "default", ...metadata }, spec: { ...spec, ...more } }) as PodNeed["pod"];
  const inDefault = (more: object) => named({ metadata: { namespace: "default" }, spec: { containers: [{ name: "main", image }] } }, more);

  test("a host that keeps to no rules brings no pod beyond baseline, into no namespace of Kubernetes, and with nothing of UMS's own", async () => {
    const hostile = [
      ...beyondBaseline.map(({ pod }) => named(pod)),
      named({ metadata: { namespace: "kube-system" }, spec: { containers: [{ name: "main", image }] } }),
      inDefault({ serviceAccountName: "ums-coordinator" }),
      inDefault({ volumes: [{ name: "keys", secret: { secretName: "ums-trust" } }] }),
    ];
    const codesOf = ({ body }: HostileAnswer) => (body as CheckAnswer).checks.flatMap(({ code }) => code ?? []);
    const harmless = await askAs(
      host,
      cluster,
      withinBaseline.map(([, pod]) => post(named(pod))),
    );
    expect(harmless.map(codesOf).filter((codes) => codes.includes("POLICY"))).toEqual([]);
    const checked = await askAs(host, cluster, hostile.map(post));
    expect(checked.map(codesOf)).toEqual(hostile.map(() => expect.arrayContaining(["POLICY"]) as string[]));
    const reserved = await askAs(host, cluster, hostile.map(put));
    expect(reserved.map(({ code }) => code)).toEqual(hostile.map(() => "POLICY"));
    const unreadable = [inDefault({ initContainers: 1 }), inDefault({ securityContext: { sysctls: 1 } })];
    expect((await askAs(host, cluster, unreadable.map(put))).map(({ code }) => code)).toEqual(unreadable.map(() => "BAD_REQUEST"));
    expect(await tracesSince([cluster], [before.cluster])).toEqual([]);
  }, 240_000);

  test("is not for a copy of a pod that is here already", async () => {
    const securityContext = { capabilities: { add: ["NET_ADMIN"] } };
    await cluster.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "native" },
      spec: { containers: [{ name: "main", image, command: ["sleep", "infinity"], securityContext }] },
    });
    await ready("native");
    const snapshotPath = "/var/lib/kubelet/migration/native/now";
    for (const [name, action] of [
      ["kept", { action: "checkpoint", sourcePod: "native" }],
      ["again", { action: "restore" }],
    ] as const) {
      const spec = { ...action, snapshotPath, selector: {} };
      await cluster.apply({ apiVersion: "podmig.dcn.ssu.ac.kr/v1", kind: "Podmigration", metadata: { name }, spec });
      await kubectl("wait", "--for=jsonpath={.status.state}=Completed", `podmigration/${name}`, "--timeout=60s");
    }
    const copy = await kubectl("get", "podmigration/again", "--output=jsonpath={.status.activePod}");
    await ready(copy);
    await kubectl("delete", "podmigration/kept", "podmigration/again", "pod/native", `pod/${copy}`, "--grace-period=1");
    await cluster.cluster.nodes[0].exec(["rm", "-r", "/var/lib/kubelet/migration/native"]);
    await expectNothingLeft();
  });

  test("judges a service as it would be made here, and takes more where that is accepted from its site", async () => {
    const accept = '{"capabilities":["CAP_NET_ADMIN"]}';
    const refusalsOf = async (from: Readonly<{ json: ClusterSite["json"] }>, to: Readonly<{ name: string }>) =>
      (await from.json<PlanReport>(["plan", "refused", "--to", to.name])).refusals.map(({ code, site }) => ({ code, site }));
    await podman("run", "--detach", "--name=refused", "--cap-add=NET_ADMIN", image, "sleep", "infinity");
    expect(await refusalsOf(host, cluster)).toEqual([{ code: "POLICY", site: cluster.name }]);
    await cluster.json(["sites", host.name, "--accept", accept]);
    await expect.poll(() => refusalsOf(host, cluster)).toEqual([]); // by whichever replica
    await moved(host, cluster, "refused");
    await ready("refused");
    expect((await podIn("refused")).spec?.containers[0]?.securityContext?.capabilities?.add).toEqual(["NET_ADMIN"]);

    expect(await refusalsOf(cluster, host)).toEqual([{ code: "POLICY", site: host.name }]);
    await host.json(["sites", cluster.name, "--accept", accept]);
    await cluster.json(["sites", host.name, "--accept", "none"]);
    await moved(cluster, host, "refused");
    await expect.poll(() => refusalsOf(host, cluster)).toEqual([{ code: "POLICY", site: cluster.name }]);
    for (const [site, other] of [[host, cluster] as const, [cluster, host] as const])
      await site.json(["sites", other.name, "--accept", "default"]);
    await podman("rm", "--force", "--time=0", "refused");
    await expectNothingLeft();
  });
});

// Last: it ends with a host that has lost its power.
describe("undone, and the service goes on where it was", () => {
  const server = ["redis-server", "--save", "", "--protected-mode", "no"];
  const startPod = async () => {
    await cluster.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "undone" },
      spec: { containers: [{ name: "main", image, command: server }] },
    });
    await ready("undone");
    await kubectl("exec", "undone", "--", "redis-cli", "set", "here", "stays");
    return (await podIn("undone")).metadata?.uid;
  };
  const stayed = async (uid: string | undefined) => {
    const { metadata, status } = await podIn("undone");
    expect([metadata?.uid, status?.containerStatuses?.[0]?.restartCount]).toEqual([uid, 0]);
    expect((await kubectl("exec", "undone", "--", "redis-cli", "get", "here")).trim()).toBe("stays");
    expect(await podman("ps", "--all", "--quiet")).toBe("");
    await kubectl("delete", "pod/undone", "--grace-period=1");
    await kubectl("delete", "migration/undone");
  };

  test.each(["pre-copy", "restore"])("a move to the host that is cancelled after its %s", async (step) => {
    const uid = await startPod();
    await createMigration(cluster, { name: "undone", pod: "undone", to: host, breakpoint: `${step} after` });
    await atBreakpoint(cluster, "undone", { step, moment: "after" });
    await kubectl("patch", "migration", "undone", "--type=merge", '--patch={"spec":{"cancel":true}}');
    await kubectl("wait", "--for=condition=Progressing=False", "migration/undone", "--timeout=60s");
    await stayed(uid);
    await expectNothingLeft();
  });

  test.each(["pre-copy", "restore"])("a move to the cluster that is cancelled after its %s", async (step) => {
    await podman("run", "--detach", "--name=undone", "--publish=7000:6379", image, ...server);
    await podman("exec", "undone", "redis-cli", "set", "here", "stays");
    setBreakpoint(host.host, step, "after");
    const { id } = await host.json<Migration>(["migrate", "undone", "--to", cluster.name, "--detach"]);
    await atHostsBreakpoint(host, id, step, "after");
    await host.ums(["cancel", id]);
    clearBreakpoint(host.host);
    await expect
      .poll(() => host.json<Migration>(["status", id]), { timeout: 60_000 })
      .toMatchObject({ phase: "RolledBack", error: { code: "CANCELLED" } });
    expect(await podman("exec", "undone", "redis-cli", "get", "here")).toBe("stays");
    expect(await cluster.cluster.api.get(pods, "undone")).toBeUndefined();
    await podman("rm", "--force", "--time=0", "undone");
    await expectNothingLeft();
  });

  test("a move to a host that loses its power when it has restored the service", async () => {
    const uid = await startPod();
    await createMigration(cluster, { name: "undone", pod: "undone", to: host, breakpoint: "restore after" });
    await atBreakpoint(cluster, "undone", { step: "restore", moment: "after" });
    await host.host.powerOff();
    await setMigrationsBreakpoint(cluster, "undone", undefined);
    await host.host.powerOn();
    await host.restart();
    await kubectl("wait", "--for=condition=Progressing=False", "migration/undone", "--timeout=90s");
    expect((await migrationIn(cluster, "undone")).status).toMatchObject({ phase: "RolledBack", error: { code: "COPY_IS_GONE" } });
    await stayed(uid);
    expect(await tracesSince([cluster], [before.cluster])).toEqual([]);
  });
});
