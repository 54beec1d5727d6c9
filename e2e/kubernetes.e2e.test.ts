/** Pods on two real clusters, moved there and back: what moves, how, and what is left behind. */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { PodFacts } from "../src/approaches/orchestrator-level/outgoing.ts";
import { podReference } from "../src/approaches/orchestrator-level/pod.ts";
import { type ErrorCode, errorTable } from "../src/errors.ts";
import { events, type Pod, pods } from "../src/platforms/kubernetes/kinds.ts";
import { migrations } from "../src/platforms/kubernetes/migration.ts";
import type { Check } from "../src/preflight/check.ts";
import { containerImages } from "../setup/container-images.ts";
import { atBreakpoint, createMigration, migrationIn, setBreakpoint } from "./cluster-migrations.ts";
import { askCoordinator, personIn } from "./cluster-people.ts";
import { type ClusterSite, type ClusterSites, createClusterSites, moved, served } from "./cluster-sites.ts";
import { type Traces, tracesIn, tracesSince } from "./cluster-traces.ts";
import { imageLayout } from "./images.ts";
import { killNamed } from "./disturbance.ts";
import { copiesOn } from "./kubernetes-disturbance.ts";
import { counted, memhogLog, postMigrate, startMemhog } from "./memhog.ts";
import { startCommitting } from "./postgres.ts";
import { redisImage } from "./redis-pod.ts";

const servicesImage = "ghcr.io/hpcclab/ums-test/services:1";

let sites: ClusterSites;
let a: ClusterSite;
let b: ClusterSite;
let tokens: Map<ClusterSite, string>;
let before: readonly [Traces, Traces];

beforeAll(async () => {
  const images = [
    ...(await containerImages(["memhog"])),
    await redisImage(),
    { reference: servicesImage, layout: await imageLayout("services") },
  ];
  sites = await createClusterSites({ images });
  ({ a, b } = sites);
  tokens = new Map(await Promise.all([a, b].map(async (site) => [site, await personIn(site)] as const)));
  before = await Promise.all([tracesIn(a), tracesIn(b)]);
});
afterAll(() => sites[Symbol.asyncDispose]());
// What a test that failed has left must not fail the next one.
afterEach(async () => {
  await onBoth(async (site) => {
    await remove(site, "deployment/owned", "resourcequota/none");
    await remove(site, "pods", "--selector=app notin (migration-coordinator,migration-operator,ssu-interface)");
  });
});

const onBoth = (act: (site: ClusterSite) => Promise<unknown>) => Promise.all([a, b].map(act));

const kubectl = async (site: ClusterSite, ...args: string[]) => (await site.cluster.kubectl(args, { timeoutMs: 130_000 })).stdout;
async function podIn({ cluster }: ClusterSite, name: string): Promise<Pod> {
  const found = await cluster.api.get(pods, name);
  if (!found) throw new Error(`${cluster.name} has no pod ${name}.`);
  return found;
}
const ready = (site: ClusterSite, name: string) => kubectl(site, "wait", "--for=condition=Ready", `pod/${name}`, "--timeout=120s");
const run = async (site: ClusterSite, pod: string, container: string, script: string) =>
  await kubectl(site, "exec", pod, `--container=${container}`, "--", "sh", "-c", script);
const isThere = async (site: ClusterSite, name: string) => (await site.cluster.api.get(pods, name)) !== undefined;
/** The site whose kubectl works in this namespace. */
const within = (namespace: string, site: ClusterSite): ClusterSite => ({
  ...site,
  cluster: {
    ...site.cluster,
    kubectl: (args, options) => site.cluster.kubectl([`--namespace=${namespace}`, ...args], options),
    api: { ...site.cluster.api, get: (kind, name) => site.cluster.api.get(kind, name, namespace) },
  },
});
const remove = (site: ClusterSite, ...what: string[]) => kubectl(site, "delete", ...what, "--ignore-not-found", "--grace-period=1");

const post = async (from: ClusterSite, to: ClusterSite, name: string, body: object = {}) =>
  postMigrate(sites, { from, to, token: tokens.get(from) ?? "", body: { name, ...body } });

/** Ends what keeps the clients of pods that have moved, and looks whether anything else is left. */
async function expectNothingLeft(): Promise<void> {
  await onBoth(async (site) => {
    for (const { migration } of await site.json<{ migration: string }[]>(["release"])) {
      const { exitCode, stderr } = await site.ums(["release", migration]);
      expect(exitCode, stderr).toBe(0);
    }
  });
  expect(await tracesSince([a, b], before)).toEqual([]);
}

const seconds = expect.any(Number) as number;
const secondsOrNull = expect.toSatisfy((value) => value === null || typeof value === "number") as number | null;
/** `original-ums.md`: every key, and no other. */
const answer = (name: string) => ({
  message: expect.any(String) as string,
  migration_id: expect.stringMatching(/^[0-9a-f]{12}$/) as string,
  migration_interface: "ssu",
  des_pod: expect.objectContaining({ metadata: expect.objectContaining({ name, namespace: "default" }) as object }) as object,
  overhead: {
    creation: seconds,
    checkpoint_and_transfer: {
      checkpoint: seconds,
      pre_checkpoint: secondsOrNull,
      checkpoint_files_transfer: seconds,
      checkpoint_files_delay: null,
      file_system_transfer: null,
      file_system_delay: null,
      volume_transfer: null,
      volume_delay: null,
      save_image: null,
      image_layers_transfer: null,
      image_layers_delay: null,
      load_image: null,
    },
    checkpoint_and_transfer_total: seconds,
    restoration: seconds,
    total: seconds,
  },
});

describe("memhog by the original's sequence", () => {
  test.each([1, 8])("twice there and back, with %i process(es): the counter goes on, and every line is there once", async (processes) => {
    for (let round = 0; round < 2; round++) {
      await startMemhog(a, { processes });
      await expect.poll(async () => counted(await memhogLog(a)).at(-1), { timeout: 20_000 }).toBeGreaterThan(1);
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const old = (await memhogLog(from)).split("\n");
        const { status, text } = await post(from, to, "memhog");
        expect(status, text).toBe(200);
        expect(JSON.parse(text)).toEqual(answer("memhog"));
        expect(await isThere(from, "memhog")).toBe(false);
        expect((await podIn(to, "memhog")).status?.conditions).toContainEqual(expect.objectContaining({ type: "Ready", status: "True" }));
        // Each number once from each process; some of them may be some numbers behind the others.
        const howOften = (text: string, count: number) => counted(text).filter((each) => each === count).length;
        const latest = Math.max(...counted(old.join("\n")));
        await expect.poll(async () => howOften(await memhogLog(to), latest + 2), { timeout: 20_000 }).toBe(processes);
        const log = await memhogLog(to);
        expect(log.split("\n").slice(0, old.length)).toEqual(old);
        for (let count = 0; count <= latest + 2; count++) expect(howOften(log, count)).toBe(processes);
      }
      await kubectl(a, "delete", "pod", "memhog", "--timeout=20s");
    }
    await expectNothingLeft();
  });

  test("once there, and deleted at once", async () => {
    await startMemhog(a);
    const { status, text } = await post(a, b, "memhog");
    expect(status, text).toBe(200);
    await kubectl(b, "delete", "pod", "memhog", "--timeout=20s");
    await expectNothingLeft();
  });
});

test("PostgreSQL under a writing load moves there and back with every acknowledged commit", async () => {
  const nodePort = 30_432;
  const bin = "/usr/lib/postgresql/15/bin";
  await a.apply(
    {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { name: "postgres" },
      data: { "postgres.sh": readFileSync(resolve(import.meta.dirname, "services/postgres.sh"), "utf8") },
    },
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { name: "postgres" },
      spec: { type: "NodePort", selector: { app: "postgres" }, ports: [{ port: 5432, nodePort }] },
    },
    {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "postgres", labels: { app: "postgres" } },
      spec: {
        containers: [
          {
            name: "postgres",
            image: servicesImage,
            command: ["sh", "/etc/postgres/postgres.sh"],
            ports: [{ containerPort: 5432 }],
            readinessProbe: { exec: { command: [`${bin}/pg_isready`, "-q"] }, periodSeconds: 1 },
            volumeMounts: [
              { name: "data", mountPath: "/var/lib/postgresql" },
              { name: "start", mountPath: "/etc/postgres" },
            ],
          },
        ],
        volumes: [
          { name: "data", emptyDir: {} },
          { name: "start", configMap: { name: "postgres" } },
        ],
      },
    },
  );
  // What the pod names must be there at the destination, as for any pod.
  await b.cluster.kubectl(["apply", "--filename=-"], {
    input: await kubectl(a, "get", "configmap", "postgres", "--output=json").then((text) => {
      const { data } = JSON.parse(text) as { data: object };
      return JSON.stringify({ apiVersion: "v1", kind: "ConfigMap", metadata: { name: "postgres" }, data });
    }),
  });
  await ready(a, "postgres");
  await served(a, nodePort);
  const sql = async (site: ClusterSite, text: string) =>
    (
      await run(site, "postgres", "postgres", `setpriv --reuid=postgres --regid=postgres --clear-groups ${bin}/psql -qAtc "${text}"`)
    ).trim();
  const client = await startCommitting(sites.clusters.wan, { host: a.cluster.nodes[0].address, port: nodePort, connections: 3 });
  const started = await sql(a, "select pg_postmaster_start_time()");
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    await client.more(50);
    await moved(from, to, "postgres");
    await client.more(50);
    // The same process, not one that has recovered from its files.
    expect(await sql(to, "select pg_postmaster_start_time()")).toBe(started);
  }
  const { table, acknowledged, refused, errors } = await client.stop();
  expect({ refused, errors }).toEqual({ refused: [], errors: [] });
  const stored = new Set((await sql(a, `select id from ${table}`)).split("\n").map(Number));
  expect(acknowledged.length).toBeGreaterThan(150);
  expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
  await remove(a, "pod/postgres", "service/postgres", "configmap/postgres");
  await remove(b, "configmap/postgres");
  await expectNothingLeft();
});

describe("a pod with everything, in a namespace of its own,", () => {
  const namespace = "shop";
  const count = (name: string) => `i=0; while true; do echo "${name} $i"; i=$((i+1)); echo $i >/disk/${name}; sleep 0.2; done`;
  const env = [
    { name: "OWN_NAME", valueFrom: { fieldRef: { fieldPath: "metadata.name" } } },
    { name: "FROM_MAP", valueFrom: { configMapKeyRef: { name: "settings", key: "colour" } } },
  ];
  const image = "ghcr.io/hpcclab/ums-test/redis:7";
  const disk = { name: "disk", mountPath: "/disk" };
  const objects = [
    { apiVersion: "v1", kind: "ConfigMap", metadata: { name: "settings", namespace }, data: { colour: "green" } },
    { apiVersion: "v1", kind: "Secret", metadata: { name: "password", namespace }, stringData: { word: "sesame" } },
  ];
  const pod = {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "everything", namespace, labels: { tier: "test" }, annotations: { note: "kept" } },
    spec: {
      initContainers: [
        { name: "prepare", image, command: ["sh", "-c", "echo once >>/disk/prepared"], volumeMounts: [disk] },
        {
          name: "sidecar",
          image,
          restartPolicy: "Always",
          command: ["sh", "-c", count("sidecar")],
          // Mounted by the kubelet before the volume's files come.
          volumeMounts: [disk, { name: "disk", mountPath: "/part", subPath: "inner" }],
        },
      ],
      containers: [
        {
          name: "one",
          image,
          command: ["sh", "-c", count("one")],
          env,
          resources: { requests: { cpu: "10m", memory: "16Mi" }, limits: { memory: "64Mi" } },
          lifecycle: { postStart: { exec: { command: ["sh", "-c", "echo started >>/disk/post-start"] } } },
          livenessProbe: { exec: { command: ["true"] }, periodSeconds: 2, timeoutSeconds: 5 },
          volumeMounts: [
            disk,
            { name: "memory", mountPath: "/memory" },
            { name: "disk", mountPath: "/part", subPath: "inner" },
            { name: "described", mountPath: "/described" },
            { name: "token", mountPath: "/token" },
            { name: "password", mountPath: "/password" },
          ],
        },
        {
          name: "two",
          image,
          command: ["sh", "-c", count("two")],
          securityContext: { runAsUser: 1000, runAsGroup: 1000, allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
          volumeMounts: [disk],
        },
      ],
      securityContext: { fsGroup: 2000 },
      volumes: [
        { name: "disk", emptyDir: {} },
        { name: "memory", emptyDir: { medium: "Memory", sizeLimit: "16Mi" } },
        { name: "described", downwardAPI: { items: [{ path: "labels", fieldRef: { fieldPath: "metadata.labels" } }] } },
        { name: "token", projected: { sources: [{ serviceAccountToken: { path: "token", expirationSeconds: 3600, audience: "shop" } }] } },
        { name: "password", secret: { secretName: "password" } },
      ],
    },
  };

  afterEach(() => onBoth((site) => remove(within(namespace, site), "pods", "--all")));

  test("moves there and back whole", async () => {
    const [here, there] = [within(namespace, a), within(namespace, b)];
    for (const site of [here, there]) {
      await site.apply({ apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } }, ...objects);
      // Without it the namespace takes no pods.
      await kubectl(site, "wait", "--for=create", "serviceaccount/default", "--timeout=30s");
    }
    await here.apply(pod);
    await ready(here, "everything");
    await run(
      here,
      "everything",
      "one",
      "echo shared >/memory/file; chmod 640 /memory/file; echo part >/part/file; echo layer >/etc/changed; rm /etc/passwd",
    );
    const files = (site: ClusterSite) =>
      run(
        site,
        "everything",
        "one",
        "cat /memory/file /part/file /disk/inner/file /disk/prepared /disk/post-start /etc/changed /described/labels /password/word; " +
          "stat --format '%n %a %u %g' /memory /memory/file /disk /disk/one /disk/two /part; ls /etc/passwd 2>&1; echo $OWN_NAME $FROM_MAP",
      );
    const token = async (site: ClusterSite) => {
      const [, payload = ""] = (await run(site, "everything", "one", "cat /token/token")).split(".");
      return JSON.parse(Buffer.from(payload, "base64url").toString()) as { "kubernetes.io": { pod: { uid: string } }; aud: string[] };
    };
    const expected = await files(here);
    expect((await a.ums(["plan", "everything", "--to", b.name])).stderr).toContain("no pod everything in namespace default");
    for (const [from, to] of [
      [here, there],
      [there, here],
    ] as const) {
      const names = ["sidecar", "one", "two"];
      const logs = await Promise.all(names.map((name) => kubectl(from, "logs", "everything", `--container=${name}`)));
      await moved(from, to, "everything", ["--namespace", namespace]);
      await ready(to, "everything");
      for (const [index, name] of names.entries()) {
        const old = logs[index]?.split("\n") ?? [];
        const log = async () => (await kubectl(to, "logs", "everything", `--container=${name}`)).split("\n");
        await expect.poll(async () => (await log()).length, { timeout: 10_000 }).toBeGreaterThan(old.length + 10);
        const lines = await log();
        expect(lines).toEqual(lines.map((_, at) => `${name} ${at}`));
      }
      expect(await files(to)).toBe(expected);
      const arrived = await podIn(to, "everything");
      const { aud, "kubernetes.io": claims } = await token(to);
      expect({ aud, uid: claims.pod.uid }).toEqual({ aud: ["shop"], uid: arrived.metadata?.uid });
      expect(arrived.metadata).toMatchObject({ labels: { tier: "test" }, annotations: { note: "kept" } });
      expect(arrived.metadata?.annotations).not.toHaveProperty("ums.dev/restore");
      const restarts = [...(arrived.status?.initContainerStatuses ?? []), ...(arrived.status?.containerStatuses ?? [])];
      expect(restarts.map(({ restartCount }) => restartCount)).toEqual([0, 0, 0]);
    }
    await remove(here, "pod/everything");
    for (const site of [here, there]) await remove(site, "configmap/settings", "secret/password");
    await expectNothingLeft();
    const left = (site: ClusterSite) => kubectl(site, "get", "services,endpointslices,pods", "--output=name");
    for (const site of [here, there]) await expect.poll(() => left(site), { timeout: 20_000 }).toBe("");
  });
});

describe("refused, and nothing is changed", () => {
  const image = "ghcr.io/hpcclab/ums-test/redis:7";
  const container = { name: "main", image, command: ["sleep", "infinity"] };
  type Spec = Readonly<Record<string, unknown>>;
  const pod = (name: string, spec: Spec = {}, metadata: object = {}) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, ...metadata },
    spec: { terminationGracePeriodSeconds: 1, containers: [container], ...spec },
  });
  const withMain = (more: object) => ({ containers: [{ ...container, ...more }] });
  const cases: readonly [code: ErrorCode, why: string, spec: Spec][] = [
    ["HOST_PATH", "a hostPath", { volumes: [{ name: "host", hostPath: { path: "/etc" } }] }],
    ["HOST_NAMESPACE", "hostNetwork", { hostNetwork: true }],
    ["HOST_NAMESPACE", "hostPID", { hostPID: true }],
    ["SHARED_PROCESSES", "a shared PID namespace", { shareProcessNamespace: true }],
    ["TERMINAL", "a terminal", withMain({ tty: true, stdin: true })],
  ];

  /** What a plan, and the original's request, say of the pod in cluster a; it stays as it was. */
  async function expectRefused(name: string, code: ErrorCode, site = "a"): Promise<void> {
    const then = await podIn(a, name);
    const { refusals } = await a.json<{ refusals: { code: string; site: string; cure: string }[] }>(["plan", name, "--to", b.name]);
    expect(refusals).toContainEqual(expect.objectContaining({ code, site, cure: expect.stringMatching(/./) as string }));
    const { status, text } = await post(a, b, name);
    expect({ status, text }).toEqual({
      status: errorTable[code].http,
      text: expect.not.stringMatching(/^\{/) as string,
    });
    const now = await podIn(a, name);
    expect(now.metadata?.uid).toBe(then.metadata?.uid);
    expect(now.status?.containerStatuses).toEqual(then.status?.containerStatuses);
  }

  test(`${cases.map(([code, why]) => `${code}: ${why}`).join("; ")}`, async () => {
    const nameOf = (why: string) => `refused-${why.replaceAll(/[^a-z]+/gi, "-").toLowerCase()}`;
    const names = cases.map(([, why]) => `pod/${nameOf(why)}`);
    await a.apply(...cases.map(([, why, spec]) => pod(nameOf(why), spec)));
    await kubectl(a, "wait", "--for=condition=Ready", ...names, "--timeout=120s");
    for (const [code, why] of cases) await expectRefused(nameOf(why), code);
    await remove(a, ...names);
    await expectNothingLeft();
  });

  test("POD_OWNED: a Deployment's pod, as its controller would make another", async () => {
    await a.apply({
      apiVersion: "apps/v1",
      kind: "Deployment",
      metadata: { name: "owned" },
      spec: {
        selector: { matchLabels: { app: "owned" } },
        template: { metadata: { labels: { app: "owned" } }, spec: { terminationGracePeriodSeconds: 1, containers: [container] } },
      },
    });
    await kubectl(a, "rollout", "status", "deployment/owned", "--timeout=60s");
    const name = await kubectl(a, "get", "pods", "--selector=app=owned", "--output=jsonpath={.items[0].metadata.name}");
    await expectRefused(name, "POD_OWNED");
    await remove(a, "deployment/owned");
    await expectNothingLeft();
  });

  test("CLAIM: a volume of a PersistentVolumeClaim", async () => {
    const storage = { accessModes: ["ReadWriteOnce"], storageClassName: "" };
    await a.apply(
      {
        apiVersion: "v1",
        kind: "PersistentVolume",
        metadata: { name: "claimed" },
        spec: { ...storage, capacity: { storage: "1Mi" }, hostPath: { path: "/var/lib/claimed", type: "DirectoryOrCreate" } },
      },
      {
        apiVersion: "v1",
        kind: "PersistentVolumeClaim",
        metadata: { name: "claimed" },
        spec: { ...storage, volumeName: "claimed", resources: { requests: { storage: "1Mi" } } },
      },
      pod("claimed", { volumes: [{ name: "data", persistentVolumeClaim: { claimName: "claimed" } }] }),
    );
    await ready(a, "claimed");
    await expectRefused("claimed", "CLAIM");
    await remove(a, "pod/claimed", "persistentvolumeclaim/claimed", "persistentvolume/claimed");
    await expectNothingLeft();
  });

  test("POD_REFUSED: a quota at the destination", async () => {
    await b.apply({ apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "none" }, spec: { hard: { "requests.cpu": "1m" } } });
    await a.apply(pod("above-quota", withMain({ resources: { requests: { cpu: "20m" } } })));
    await ready(a, "above-quota");
    await expectRefused("above-quota", "POD_REFUSED", "b");
    await remove(b, "resourcequota/none");
    await remove(a, "pod/above-quota");
    await expectNothingLeft();
  });

  test("POD_REFUSED: an admission policy at the destination", async () => {
    const admission = { apiVersion: "admissionregistration.k8s.io/v1", metadata: { name: "unwelcome" } };
    await b.apply(
      {
        ...admission,
        kind: "ValidatingAdmissionPolicy",
        spec: {
          matchConstraints: { resourceRules: [{ apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE"], resources: ["pods"] }] },
          validations: [{ expression: "object.metadata.name != 'unwelcome'", message: "not welcome here" }],
        },
      },
      { ...admission, kind: "ValidatingAdmissionPolicyBinding", spec: { policyName: "unwelcome", validationActions: ["Deny"] } },
    );
    await a.apply(pod("unwelcome"));
    await ready(a, "unwelcome");
    // The API server takes a moment to know a policy.
    const details = async () => (await a.json<{ refusals: { detail: string }[] }>(["plan", "unwelcome", "--to", b.name])).refusals;
    await expect
      .poll(details, { timeout: 30_000 })
      .toContainEqual(expect.objectContaining({ detail: expect.stringContaining("not welcome here") as string }));
    await expectRefused("unwelcome", "POD_REFUSED", "b");
    await remove(b, "validatingadmissionpolicybinding/unwelcome", "validatingadmissionpolicy/unwelcome");
    await remove(a, "pod/unwelcome");
    await expectNothingLeft();
  });

  test("SERVICE_SHARED: a Service that leads to another pod, too", async () => {
    const labels = { app: "shared" };
    await a.apply(
      { apiVersion: "v1", kind: "Service", metadata: { name: "shared" }, spec: { selector: labels, ports: [{ port: 80 }] } },
      pod("shared-1", {}, { labels }),
      pod("shared-2", {}, { labels }),
    );
    for (const name of ["shared-1", "shared-2"]) await ready(a, name);
    await expectRefused("shared-1", "SERVICE_SHARED");
    await remove(a, "pod/shared-1", "pod/shared-2", "service/shared");
    await expectNothingLeft();
  });

  test("NAME_TAKEN: a pod of that name at the destination", async () => {
    await a.apply(pod("taken"));
    await b.apply(pod("taken"));
    await ready(a, "taken");
    await expectRefused("taken", "NAME_TAKEN", "b");
    for (const site of [a, b]) await remove(site, "pod/taken");
    await expectNothingLeft();
  });

  test("CRIU_TOO_OLD: a node of the source whose CRIU does not run; `ums doctor` calls it no more ok than a plan does", async () => {
    await a.apply(pod("undumpable"));
    await ready(a, "undumpable");
    // What has worked is not tried again for a minute, but by another process.
    await remove(a, "pods", "--selector=app=ssu-interface");
    await kubectl(a, "rollout", "status", "daemonset/ssu-interface", "--timeout=60s");
    const inInterface = (...command: string[]) => kubectl(a, "exec", "daemonset/ssu-interface", "--", ...command);
    await inInterface("mount", "--bind", "/bin/false", "/opt/ums/criu/criu");
    const refusals = async () => (await a.json<Check[]>(["doctor"])).filter(({ ok }) => !ok).map(({ code }) => code);
    try {
      await expectRefused("undumpable", "CRIU_TOO_OLD");
      expect(await refusals()).toEqual(["CRIU_TOO_OLD"]);
    } finally {
      await inInterface("umount", "/opt/ums/criu/criu");
    }
    expect(await refusals()).toEqual([]);
    await remove(a, "pod/undumpable");
    await expectNothingLeft();
  });

  test("an image that the destination can't pull is found out before the freeze", async () => {
    const local = "localhost/only-here:1";
    // Of an image that a kubelet of 1.35 or newer has pulled, it lets nobody use another name (KubeletEnsureSecretPulledImages).
    const { stdout: images } = await a.cluster.nodes[0].exec(["ctr", "--namespace=k8s.io", "images", "list", "--quiet"]);
    const notByKubelet = images.split("\n").find((name) => name.startsWith("registry.k8s.io/pause:")) ?? "";
    await a.cluster.nodes[0].exec(["ctr", "--namespace=k8s.io", "images", "tag", notByKubelet, local]);
    await a.apply(pod("unpullable", withMain({ image: local, imagePullPolicy: "IfNotPresent", command: ["/pause"] })));
    await ready(a, "unpullable");
    const uid = (await podIn(a, "unpullable")).metadata?.uid;
    const migration = await a.json<{ phase: string; error?: { code: string }; steps: object }>(["migrate", "unpullable", "--to", b.name]);
    expect(migration).toMatchObject({ phase: "RolledBack", error: { code: "POD_REFUSED" } });
    expect(migration.steps).not.toHaveProperty("freeze");
    expect((await podIn(a, "unpullable")).metadata?.uid).toBe(uid);
    expect(await isThere(b, "unpullable")).toBe(false);
    await remove(a, "pod/unpullable");
    await expectNothingLeft();
  });

  test("a pod that is not there is 404, a site that is not paired too, a request that is none 400, a stranger 401, and the second migration of a pod 409", async () => {
    expect(await post(a, b, "nobody")).toMatchObject({ status: 404, text: expect.stringContaining("nobody") as string });
    await a.apply(pod("moving"));
    await ready(a, "moving");
    expect(await post(a, b, "moving", { destinationUrl: "10.231.0.99:30001" })).toMatchObject({ status: 404 });
    expect(await post(a, b, "moving", { destinationUrl: "no address" })).toMatchObject({ status: expect.toBeOneOf([400, 404]) as number });
    expect(await post(a, b, "Not_A_Name")).toMatchObject({ status: expect.toBeOneOf([400, 404]) as number });
    expect(await askCoordinator(sites.clusters, a, { method: "POST", path: "/migrate", body: {} })).toMatchObject({ status: 401 });
    const { status } = await askCoordinator(sites.clusters, a, { token: "no-token", path: "/list" });
    expect(status).toBe(401);
    const [one, other] = await Promise.all([post(a, b, "moving"), post(a, b, "moving")]);
    expect([one.status, other.status].toSorted()).toEqual([200, 409]);
    expect(await isThere(a, "moving")).toBe(false);
    await remove(b, "pod/moving");
    await expectNothingLeft();
  });
});

describe("a Migration object", () => {
  const image = "ghcr.io/hpcclab/ums-test/redis:7";
  const start = async (name: string, more: object = {}, container: object = {}) => {
    await a.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        terminationGracePeriodSeconds: 2,
        containers: [{ name: "main", image, command: ["redis-server", "--save", "", "--protected-mode", "no"], ...container }],
        ...more,
      },
    });
    await ready(a, name);
  };
  const eventsOf = (site: ClusterSite, kind: "Pod" | "Migration", name: string) =>
    kubectl(
      site,
      ...["get", "events", `--field-selector=involvedObject.kind=${kind},involvedObject.name=${name},type=migration`],
      "--output=jsonpath={.items[*].reason}",
    );
  /** What the kubelets have begun to end. */
  const killingsOf = (site: ClusterSite, name: string) =>
    site.cluster.api.list(events, { fields: `involvedObject.name=${name},reason=Killing` });
  const forget = async (name: string) => {
    await onBoth((site) => remove(site, `pod/${name}`));
    await kubectl(a, "delete", "migration", name, "--ignore-not-found", "--timeout=30s");
    await expectNothingLeft();
  };

  /** What of UMS tells the word, on both sides, but for the pod itself: objects, events, logs at level debug, files of the nodes. */
  const tellingIn = async (word: string): Promise<string[]> => {
    const questions = [
      ["get", "migrations,events,configmaps,leases", "--all-namespaces", "--output=yaml"],
      ...["migration-coordinator", "migration-operator", "ssu-interface"].map((app) => ["logs", `--selector=app=${app}`, "--tail=-1"]),
    ];
    const places = [
      "/var/lib/ums",
      "/run/ums",
      "/dev/shm",
      "/var/lib/containerd/ums",
      "/var/lib/kubelet/ums",
      "/var/lib/kubelet/migration",
    ];
    const search = ["grep", "--recursive", "--files-with-matches", "--text", "--fixed-strings", word, ...places];
    const found = await onBoth(async (site) => [
      ...(await Promise.all(questions.map(async (words) => ((await kubectl(site, ...words)).includes(word) ? [words.join(" ")] : [])))),
      ...(await Promise.all(site.cluster.nodes.map(async (node) => (await node.exec(search, { reject: false })).stdout.split("\n")))),
    ]);
    return (found as string[][][]).flat(2).filter(Boolean);
  };

  test("that is applied moves its pod; kubectl waits for it, shows it and has its events, and none of its Secrets", async () => {
    const word = `sesame-${randomBytes(8).toString("hex")}`;
    for (const site of [a, b]) await site.apply({ apiVersion: "v1", kind: "Secret", metadata: { name: "word" }, stringData: { word } });
    const env = [{ name: "WORD", valueFrom: { secretKeyRef: { name: "word", key: "word" } } }];
    await start("applied", {}, { command: ["sleep", "infinity"], env });
    await createMigration(a, { name: "applied", pod: "applied", to: b });
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/applied", "--timeout=60s");
    const [head = "", row = ""] = (await kubectl(a, "get", "mig", "applied")).split("\n");
    expect(head.split(/ +/).filter(Boolean)).toEqual(["NAME", "POD", "DESTINATION", "PHASE", "DOWNTIME", "AGE"]);
    expect(row).toMatch(/^applied +applied +b +Succeeded +\d+ +\d+s *$/);
    expect((await migrationIn(a, "applied")).status?.destinationPod).toMatchObject({ metadata: { name: "applied" } });
    for (const kind of ["Migration", "Pod"] as const)
      await expect.poll(() => eventsOf(a, kind, "applied"), { timeout: 5_000 }).toBe("ready");
    expect(await isThere(a, "applied")).toBe(false);
    await ready(b, "applied");
    expect(await run(b, "applied", "main", "tr '\\0' '\\n' </proc/1/environ")).toContain(`WORD=${word}`);
    await expect.poll(() => tellingIn(word), { timeout: 15_000, interval: 1_000 }).toEqual([]);
    await forget("applied");
    await onBoth((site) => remove(site, "secret/word"));
  });

  const removed = async (): Promise<void> => {
    await kubectl(a, "delete", "migration", "undone", "--timeout=60s");
  };

  test.each([
    ["deleted", "pre-copy", removed],
    ["deleted", "transfer", removed],
    [
      "cancelled",
      "restore",
      async (): Promise<void> => {
        await kubectl(a, "patch", "migration", "undone", "--type=merge", '--patch={"spec":{"cancel":true}}');
        await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/undone", "--timeout=60s");
        expect((await migrationIn(a, "undone")).status).toMatchObject({ phase: "RolledBack", error: { code: "CANCELLED" } });
        await expect.poll(() => eventsOf(a, "Pod", "undone"), { timeout: 5_000 }).toContain("error");
      },
    ],
  ] as const)("that is %s after its %s is undone: the pod goes on as it was", async (_how, step, end) => {
    await start("undone");
    await run(a, "undone", "main", "redis-cli set here stays");
    const { metadata } = await podIn(a, "undone");
    await createMigration(a, { name: "undone", pod: "undone", to: b, breakpoint: `${step} after` });
    await atBreakpoint(a, "undone", { step, moment: "after" });
    await end();
    const now = await podIn(a, "undone");
    expect(now.metadata?.uid).toBe(metadata?.uid);
    expect(now.status?.containerStatuses?.[0]?.restartCount).toBe(0);
    expect(await run(a, "undone", "main", "redis-cli get here")).toBe("stays");
    expect(await isThere(b, "undone")).toBe(false);
    await forget("undone");
  });

  test.each([
    ["deleted", () => kubectl(a, "delete", "pod", "unwanted", "--wait=false")],
    [
      "evicted",
      () =>
        a.cluster.kubectl(["create", "--raw=/api/v1/namespaces/default/pods/unwanted/eviction", "--filename=-"], {
          input: JSON.stringify({ apiVersion: "policy/v1", kind: "Eviction", metadata: { name: "unwanted", namespace: "default" } }),
        }),
    ],
  ] as const)("whose pod is %s by its user in the middle is undone, and that stands", async (_how, end) => {
    await start("unwanted");
    await createMigration(a, { name: "unwanted", pod: "unwanted", to: b, breakpoint: "transfer after" });
    await atBreakpoint(a, "unwanted", { step: "transfer", moment: "after" });
    await end();
    await sleep(4_000); // until the kubelet's SIGKILL waits for the thaw
    await setBreakpoint(a, "unwanted", undefined);
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/unwanted", "--timeout=60s");
    expect((await migrationIn(a, "unwanted")).status).toMatchObject({ phase: "RolledBack", error: { code: "POD_DELETED" } });
    await kubectl(a, "wait", "--for=delete", "pod/unwanted", "--timeout=60s");
    expect(await isThere(b, "unwanted")).toBe(false);
    await forget("unwanted");
  });

  test("whose pod is changed by its user in the middle is undone, and the change stands", async () => {
    await start("edited");
    await createMigration(a, { name: "edited", pod: "edited", to: b, breakpoint: "transfer after" });
    await atBreakpoint(a, "edited", { step: "transfer", moment: "after" });
    await kubectl(a, "label", "pod", "edited", "tier=gold");
    await setBreakpoint(a, "edited", undefined);
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/edited", "--timeout=60s");
    expect((await migrationIn(a, "edited")).status).toMatchObject({ phase: "RolledBack", error: { code: "POD_CHANGED" } });
    expect(await kubectl(a, "get", "pod", "edited", "--output=jsonpath={.metadata.labels.tier}")).toBe("gold");
    expect(await run(a, "edited", "main", "redis-cli ping")).toBe("PONG");
    expect(await isThere(b, "edited")).toBe(false);
    await forget("edited");
  });

  test("whose copy's container is given up by its engine before the memory has come goes on with the one that the kubelet makes next", async () => {
    await start("patient");
    await run(a, "patient", "main", "redis-cli set here moves");
    await createMigration(a, { name: "patient", pod: "patient", to: b, breakpoint: "restore before" });
    await atBreakpoint(a, "patient", { step: "restore", moment: "before" });
    expect(killNamed(b.cluster.nodes, /^cat \S+\/ums\.go /, () => true)).toBe(true);
    await setBreakpoint(a, "patient", undefined);
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/patient", "--timeout=120s");
    await ready(b, "patient");
    expect(await run(b, "patient", "main", "redis-cli get here")).toBe("moves");
    await forget("patient");
  });

  test("beside one that moves the same pod is refused, and the first goes on", async () => {
    await start("wanted");
    await createMigration(a, { name: "first", pod: "wanted", to: b, breakpoint: "freeze after" });
    await atBreakpoint(a, "first", { step: "freeze", moment: "after" });
    await createMigration(a, { name: "second", pod: "wanted", to: b });
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/second", "--timeout=30s");
    expect((await migrationIn(a, "second")).status).toMatchObject({ phase: "Failed", error: { code: "ALREADY_MIGRATING" } });
    await setBreakpoint(a, "first", undefined);
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/first", "--timeout=60s");
    expect(await isThere(a, "wanted")).toBe(false);
    await ready(b, "wanted");
    await kubectl(a, "delete", "migration", "first", "second", "--timeout=30s");
    await forget("wanted");
  });

  test("of a pod whose liveness probe would lose its patience during the dump is undone before that", async () => {
    const livenessProbe = { tcpSocket: { port: 6379 }, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 16 };
    await start("impatient", {}, { livenessProbe });
    await run(a, "impatient", "main", "redis-cli set here stays");
    await createMigration(a, { name: "impatient", pod: "impatient", to: b, breakpoint: "transfer before 12050" });
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/impatient", "--timeout=90s");
    expect((await migrationIn(a, "impatient")).status).toMatchObject({ phase: "RolledBack", error: { code: "LIVENESS" } });
    expect(await isThere(b, "impatient")).toBe(false);
    expect((await podIn(a, "impatient")).status?.containerStatuses?.[0]?.restartCount).toBe(0);
    expect(await run(a, "impatient", "main", "redis-cli get here")).toBe("stays");
    await forget("impatient");
  });

  test("whose frozen source its liveness probe has killed after the grant goes forward, also when it is cancelled then", async () => {
    const livenessProbe = { tcpSocket: { port: 6379 }, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 5 };
    await start("probed", {}, { livenessProbe });
    await run(a, "probed", "main", "redis-cli set here stays");
    await createMigration(a, { name: "probed", pod: "probed", to: b, breakpoint: "restore before" });
    await atBreakpoint(a, "probed", { step: "restore", moment: "before" });
    await expect.poll(() => killingsOf(a, "probed"), { timeout: 30_000 }).not.toEqual([]);
    await sleep(4_000); // its grace period, then SIGKILL
    await kubectl(a, "patch", "migration", "probed", "--type=merge", '--patch={"spec":{"cancel":true}}');
    await sleep(1_000);
    await setBreakpoint(a, "probed", undefined); // the copy is restored all the same
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/probed", "--timeout=60s");
    expect(await isThere(a, "probed")).toBe(false);
    expect(await run(b, "probed", "main", "redis-cli get here")).toBe("stays");
    await forget("probed");
  });

  test("whose copies both are being ended by their liveness probes ends with the source's, made again of its dump", async () => {
    const livenessProbe = { tcpSocket: { port: 6379 }, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 5 };
    // It takes its time to end: then a commit would come in between.
    const script = 'trap "sleep 10; exit 0" TERM; redis-server --save "" --protected-mode no & while :; do wait; done';
    await start("doomed", { terminationGracePeriodSeconds: 15 }, { livenessProbe, command: ["sh", "-c", script] });
    await kubectl(a, "label", "pod", "doomed", "tier=gold");
    await run(a, "doomed", "main", "redis-cli set here stays; echo kept > /tmp/note");
    await createMigration(a, { name: "doomed", pod: "doomed", to: b, breakpoint: "restore after" });
    await atBreakpoint(a, "doomed", { step: "restore", moment: "after" });
    await onBoth((site) => expect.poll(() => killingsOf(site, "doomed"), { timeout: 30_000 }).not.toEqual([]));
    expect(b.cluster.nodes.flatMap(copiesOn)).toEqual(["live"]);
    await a.apply({ apiVersion: "v1", kind: "ResourceQuota", metadata: { name: "none" }, spec: { hard: { pods: "0" } } });
    await setBreakpoint(a, "doomed", undefined);
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/doomed", "--timeout=90s");
    const { phase, error, message, facts } = (await migrationIn(a, "doomed")).status ?? {};
    expect({ phase, code: error?.code }).toEqual({ phase: "RolledBack", code: "COPY_IS_GONE" });
    // It has no other copy: what doesn't let it in is asked again.
    const restore = /mig-[0-9a-f]{12}/.exec(message ?? "")?.[0] ?? "";
    await expect
      .poll(async () => (await migrationIn(a, restore)).status?.waiting, { timeout: 90_000 })
      .toMatch(/^it is tried again in 5 s/);
    await remove(a, "resourcequota/none");
    await kubectl(a, "wait", "--for=condition=Progressing=False", `migration/${restore}`, "--timeout=90s");
    expect((await migrationIn(a, restore)).status).toMatchObject({ phase: "Failed", error: { code: "POD_REFUSED" } });
    const again = async () =>
      (await a.cluster.api.list(migrations)).find(({ metadata }) => metadata.annotations?.["ums.dev/attempt"] === "2")?.metadata.name;
    await expect.poll(again, { timeout: 30_000 }).toBeDefined();
    await kubectl(a, "wait", "--for=condition=Succeeded", `migration/${await again()}`, "--timeout=90s");
    await ready(a, "doomed");
    expect((await podIn(a, "doomed")).metadata?.labels).toMatchObject({ tier: "gold" });
    expect(await run(a, "doomed", "main", "redis-cli get here; cat /tmp/note")).toBe("stays\nkept");
    expect(await isThere(b, "doomed")).toBe(false);
    const { node, path } = (facts?.["source"] as PodFacts).rescued ?? { node: "", path: "" };
    const kept = await a.cluster.nodes.find(({ name }) => name === node)?.exec(["ls", path], { reject: false });
    expect(kept).toMatchObject({ stderr: expect.stringContaining("No such file") as string }); // its memory isn't kept any longer than it must
    await kubectl(a, "delete", "migration", restore, (await again()) ?? "", "--timeout=30s");
    await forget("doomed");
  });

  test("of a pod with a preStop hook calls it on neither copy", async () => {
    const preStop = { httpGet: { path: "/pre-stop", port: 6379 } };
    await start(
      "hooked",
      {},
      { lifecycle: { preStop }, command: ["redis-server", "--save", "", "--protected-mode", "no", "--loglevel", "verbose"] },
    );
    await createMigration(a, { name: "hooked", pod: "hooked", to: b });
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/hooked", "--timeout=60s");
    // Redis writes a line for whoever speaks HTTP to it.
    const log = await kubectl(b, "logs", "hooked");
    expect(log).toContain("Ready to accept connections");
    expect(log).not.toMatch(/SECURITY ATTACK|signal handler/i);
    await forget("hooked");
  });

  /** What the destination remembers of the migration, and a change to it as only a clock or a crash would make. */
  type Arrival = Awaited<ReturnType<typeof arrivalOf>>;
  const arrivalOf = async (name: string) => {
    const arrival = `arrival-${(await migrationIn(a, name)).status?.id}`;
    return {
      name: arrival,
      phase: async () => (await migrationIn(b, arrival)).status?.phase,
      note: (facts: object) =>
        kubectl(
          b,
          "patch",
          "migration",
          arrival,
          "--subresource=status",
          "--type=merge",
          `--patch=${JSON.stringify({ status: { facts } })}`,
        ),
    };
  };

  test.each([
    [
      "whose source says nothing for an hour",
      (arrival: Arrival) => arrival.note({ seenAt: new Date(Date.now() - 3_700_000).toISOString() }),
    ],
    ["whose arrival is deleted by a person", (arrival: Arrival) => kubectl(b, "delete", "migration", arrival.name, "--wait=false")],
  ])("%s is given up at the destination, and undone at the source", async (_why, act) => {
    await start("silent");
    await run(a, "silent", "main", "redis-cli set here stays");
    await createMigration(a, { name: "silent", pod: "silent", to: b, breakpoint: "restore after" });
    await atBreakpoint(a, "silent", { step: "restore", moment: "after" });
    await act(await arrivalOf("silent"));
    await expect.poll(() => isThere(b, "silent"), { timeout: 60_000 }).toBe(false);
    await setBreakpoint(a, "silent", undefined);
    await kubectl(a, "wait", "--for=condition=Progressing=False", "migration/silent", "--timeout=60s");
    expect((await migrationIn(a, "silent")).status).toMatchObject({ phase: "RolledBack", error: { code: "COPY_IS_GONE" } });
    expect(await run(a, "silent", "main", "redis-cli get here")).toBe("stays");
    await forget("silent");
  });

  test("whose status somebody has written by hand has no node touch another's pod", async () => {
    await start("victim");
    await kubectl(a, "create", "namespace", "evil");
    const own = { namespace: "evil", name: "innocent" };
    await a.apply({ apiVersion: "ums.dev/v1", kind: "Migration", metadata: own, spec: { pod: "innocent", destination: "b" } });
    await kubectl(a, "wait", "--namespace=evil", "--for=condition=Progressing=False", "migration/innocent", "--timeout=60s"); // no such pod
    const victim = await podIn(a, "victim");
    const { uid, containers, volumes } = podReference(victim);
    const done = { startedAt: new Date().toISOString(), doneAt: new Date().toISOString(), undoneAt: null };
    const steps = ["admit", "reserve", "pre-copy", "hold-clients", "freeze", "restore", "commit", "forward-clients"];
    const need = { pod: { metadata: own }, containers: [], volumes: [], ports: [], memoryBytes: 1 };
    const status = {
      endedAt: null,
      facts: { source: { ...own, uid, node: victim.spec?.nodeName, ports: [], pod: { containers, volumes }, need } },
      journal: { failure: null, steps: { "clean-up": null, ...Object.fromEntries(steps.map((step) => [step, done])) } },
    };
    const patch = (...args: string[]) => kubectl(a, "patch", "migration", "innocent", "--namespace=evil", "--type=merge", ...args);
    await patch("--subresource=status", `--patch=${JSON.stringify({ status })}`);
    const waiting = () => kubectl(a, "get", "migration", "innocent", "--namespace=evil", "--output=jsonpath={.status.waiting}");
    await expect.poll(waiting, { timeout: 60_000 }).toContain("is not container main of pod evil/innocent");
    expect(await run(a, "victim", "main", "redis-cli ping")).toBe("PONG");
    expect(await podIn(a, "victim")).toMatchObject({ metadata: { uid }, status: { containerStatuses: [{ restartCount: 0 }] } });
    await patch('--patch={"metadata":{"finalizers":null}}');
    await kubectl(a, "delete", "namespace", "evil", "--timeout=60s");
    await remove(a, "pod/victim");
  });

  test("whose coordinator died on a durable commit is finished by another", async () => {
    await start("decided");
    await createMigration(a, { name: "decided", pod: "decided", to: b, breakpoint: "restore after" });
    await atBreakpoint(a, "decided", { step: "restore", moment: "after" });
    const arrival = await arrivalOf("decided");
    await arrival.note({ verdict: "committed" });
    await expect.poll(arrival.phase, { timeout: 60_000 }).toBe("Succeeded");
    expect((await podIn(b, "decided")).metadata?.annotations ?? {}).not.toHaveProperty("ums.dev/restore");
    await setBreakpoint(a, "decided", undefined);
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/decided", "--timeout=60s");
    await forget("decided");
  });

  test("whose arrival and pod are deleted before it has heard of the commit is remembered until then, and not undone", async () => {
    await start("unheard");
    await createMigration(a, { name: "unheard", pod: "unheard", to: b, breakpoint: "restore after" });
    await atBreakpoint(a, "unheard", { step: "restore", moment: "after" });
    const arrival = await arrivalOf("unheard");
    await arrival.note({ verdict: "committed" });
    await expect.poll(arrival.phase, { timeout: 60_000 }).toBe("Succeeded");
    await kubectl(b, "delete", "migration", arrival.name, "--wait=false");
    await remove(b, "pod/unheard");
    await setBreakpoint(a, "unheard", undefined);
    await kubectl(a, "wait", "--for=condition=Succeeded", "migration/unheard", "--timeout=60s");
    expect(await isThere(a, "unheard")).toBe(false);
    await kubectl(b, "wait", "--for=delete", `migration/${arrival.name}`, "--timeout=30s");
    await forget("unheard");
  });
});

test("a node that was not there when a Migration was deleted leads nobody any more once it is back", async () => {
  const [node] = a.cluster.nodes;
  await node.exec(["nft", "add", "table", "ip", "ums_forward_249"]);
  await kubectl(a, "delete", "pods", "--selector=app=ssu-interface", "--wait=false");
  await expect.poll(async () => (await node.exec(["nft", "list", "tables"])).stdout, { timeout: 90_000 }).not.toContain("ums_forward_249");
});

test("a pod that exchanges its directories with links gets nothing of its node read for it, by a checkpoint or by a move", async () => {
  const secret = "secret of the node";
  const target = "/var/lib/kubelet/pki"; // where an interface sees it by the same name
  const [node] = a.cluster.nodes;
  await node.exec(["sh", "-c", `mkdir -p ${target}; umask 077; echo '${secret}' >${target}/canary-secret`]);
  const stolenOn = async ({ cluster }: ClusterSite, ...places: string[]) => {
    const found = await Promise.all(
      cluster.nodes.map((each) =>
        each.exec(["grep", "-rl", secret, ...places], { reject: false }).then(({ stdout }) => stdout.split("\n")),
      ),
    );
    return found.flat().filter((file) => file !== "" && file !== `${target}/canary-secret`);
  };
  const run = async (name: string) => {
    await a.apply({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name },
      spec: {
        nodeName: node.name,
        terminationGracePeriodSeconds: 1,
        containers: [
          {
            name: "thief",
            image: servicesImage,
            command: ["python3", "-u", "/srv/steal.py", target, "canary-secret"],
            volumeMounts: [{ name: "w", mountPath: "/w" }],
          },
        ],
        volumes: [{ name: "w", emptyDir: {} }],
      },
    });
    await ready(a, name);
    await expect.poll(() => kubectl(a, "logs", name), { timeout: 20_000 }).toContain("ready");
  };

  await run("photographed");
  const snapshot = "/var/lib/kubelet/migration/photographed";
  await a.apply({
    apiVersion: "podmig.dcn.ssu.ac.kr/v1",
    kind: "Podmigration",
    metadata: { name: "photographed", namespace: "default" },
    spec: { selector: { podmig: "dcn" }, action: "checkpoint", sourcePod: "photographed", snapshotPath: snapshot },
  });
  // Either may fail while the files behave so: what counts is what has been read.
  const ended = async () => await kubectl(a, "get", "podmigration", "photographed", "--output=jsonpath={.status.state}");
  await expect.poll(ended, { timeout: 90_000 }).toMatch(/^(Completed|Failed)$/);
  const photographed = await stolenOn(a, "/var/lib/kubelet", "/var/lib/ums", "/run/ums");

  await run("thief");
  await post(a, b, "thief");
  const sent = await stolenOn(b, "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/ums");
  expect({ photographed, sent }).toEqual({ photographed: [], sent: [] });

  await remove(a, "podmigration/photographed");
  await onBoth((site) => remove(site, "pod/photographed", "pod/thief"));
  await node.exec(["rm", "-r", `${target}/canary-secret`, snapshot], { reject: false });
});
