import { describe, expect, test } from "vitest";
import type { Pod, Service } from "../../platforms/kubernetes/kinds.ts";
import {
  destinationPod,
  livenessBudgetMs,
  podLabel,
  podReference,
  podRefusals,
  pulledImages,
  restoreAnnotation,
  podNotes,
  servicePorts,
  sharedServices,
  standstillMs,
  startBudgetMs,
} from "./pod.ts";

type Spec = NonNullable<Pod["spec"]>;
const digest = `sha256:${"d".repeat(64)}`;
const status = (name: string) => ({
  name,
  containerID: `containerd://${name}`,
  image: "shop",
  imageID: `registry.example/shop@${digest}`,
  ready: true,
  restartCount: 2,
  state: { running: { startedAt: "2026-01-01T00:00:00Z" } },
});

/** A pod as its cluster shows it while it runs. */
function pod({ spec, metadata, ...rest }: { spec?: Partial<Spec>; metadata?: Pod["metadata"]; status?: Pod["status"] } = {}): Pod {
  const containers = spec?.containers ?? [{ name: "main", image: "shop:1" }];
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "shop", namespace: "web", uid: "u-1", resourceVersion: "7", labels: { app: "shop" }, ...metadata },
    spec: { nodeName: "a-1", priority: 0, ...spec, containers },
    status: { phase: "Running", containerStatuses: containers.map(({ name }) => status(name)), ...rest.status },
  };
}

describe("podRefusals", () => {
  test("lets a plain pod go, with volumes that are made anew or copied", () => {
    const volumes = [
      { name: "cache", emptyDir: {} },
      { name: "fast", emptyDir: { medium: "Memory" } },
      { name: "settings", configMap: { name: "settings" } },
      { name: "password", secret: { secretName: "password" } },
      { name: "token", projected: { sources: [] } },
      { name: "described", downwardAPI: {} },
    ];
    expect(podRefusals(pod({ spec: { volumes } }))).toEqual([]);
    expect(podRefusals(pod({ spec: { runtimeClassName: "ums" } }))).toEqual([]);
  });

  const main = (more: object) => ({ containers: [{ name: "main", image: "shop:1", ...more }] });
  test.each<[code: string, why: string, pod: Pod]>([
    ["SERVICE_NOT_RUNNING", "it has not started", pod({ status: { phase: "Pending" } })],
    ["SERVICE_NOT_RUNNING", "it is being deleted", pod({ metadata: { deletionTimestamp: "2026-01-01T00:00:00Z" } })],
    [
      "SERVICE_NOT_RUNNING",
      "a container waits for its restart",
      pod({ status: { containerStatuses: [{ ...status("main"), state: { waiting: { reason: "CrashLoopBackOff" } } }] } }),
    ],
    [
      "POD_OWNED",
      "a controller would make another",
      pod({ metadata: { ownerReferences: [{ apiVersion: "apps/v1", kind: "ReplicaSet", name: "shop", uid: "u-2" }] } }),
    ],
    ["POD_OWNED", "something keeps it when it is deleted", pod({ metadata: { finalizers: ["example.com/keep"] } })],
    ["POD_OWNED", "it is static", pod({ metadata: { annotations: { "kubernetes.io/config.mirror": "x" } } })],
    [
      "ALREADY_MIGRATING",
      "it is still arriving",
      pod({ metadata: { annotations: { [restoreAnnotation]: "0123456789ab", "ums.dev/migration": "0123456789ab" } } }),
    ],
    [
      "UNSUPPORTED_SETTING",
      "nothing is started beside a sidecar that can't answer its startupProbe",
      pod({ spec: { initContainers: [{ name: "proxy", image: "proxy:1", restartPolicy: "Always", startupProbe: {} }] } }),
    ],
    [
      "SERVICE_NOT_RUNNING",
      "a container is still starting",
      pod({ spec: main({ startupProbe: {} }), status: { containerStatuses: [{ ...status("main"), started: false }] } }),
    ],
    ["HOST_NAMESPACE", "it has the node's network", pod({ spec: { hostNetwork: true } })],
    ["HOST_NAMESPACE", "it sees the node's processes", pod({ spec: { hostPID: true } })],
    ["HOST_NAMESPACE", "it has the node's IPC", pod({ spec: { hostIPC: true } })],
    ["SHARED_PROCESSES", "its containers share their processes", pod({ spec: { shareProcessNamespace: true } })],
    ["USER_NAMESPACE", "it has its own user namespace", pod({ spec: { hostUsers: false } })],
    ["RUNTIME_NOT_RUNC", "it runs in another runtime", pod({ spec: { runtimeClassName: "gvisor" } })],
    ["DEVICE", "it has a resource claim", pod({ spec: { resourceClaims: [{ name: "gpu" }] } })],
    ["DEVICE", "it has a device", pod({ spec: main({ resources: { limits: { "example.com/gpu": "1" } } }) })],
    ["HUGEPAGES", "it has huge pages", pod({ spec: main({ resources: { limits: { "hugepages-2Mi": "2Mi" } } }) })],
    ["HUGEPAGES", "a volume is of huge pages", pod({ spec: { volumes: [{ name: "big", emptyDir: { medium: "HugePages" } }] } })],
    ["TERMINAL", "it has a terminal", pod({ spec: main({ tty: true }) })],
    [
      "UNSUPPORTED_SETTING",
      "its preStop hook calls another host",
      pod({ spec: main({ lifecycle: { preStop: { httpGet: { host: "shop.example", port: 80 } } } }) }),
    ],
    ["CLAIM", "it has a block device", pod({ spec: main({ volumeDevices: [{ name: "disk", devicePath: "/dev/disk" }] }) })],
    ["CLAIM", "a volume is a claim", pod({ spec: { volumes: [{ name: "d", persistentVolumeClaim: { claimName: "d" } }] } })],
    ["CLAIM", "a volume is a claim of its own", pod({ spec: { volumes: [{ name: "d", ephemeral: {} }] } })],
    ["HOST_PATH", "a volume is the node's", pod({ spec: { volumes: [{ name: "d", hostPath: { path: "/srv" } }] } })],
    [
      "VOLUME_UNSUPPORTED",
      "a volume is of a kind that stays",
      pod({ spec: { volumes: [{ name: "d", nfs: { path: "/", server: "n" } }] } }),
    ],
    ["LIVENESS", "its probe may never fail", pod({ spec: main({ livenessProbe: { failureThreshold: 1 } }) })],
    ["UNSUPPORTED_SETTING", "somebody debugs it", pod({ spec: { ephemeralContainers: [{ name: "debugger", image: "busybox" }] } })],
  ])("%s when %s", (code, _why, refused) => {
    expect(podRefusals(refused)).toEqual([{ code, detail: expect.stringMatching(/./) as string }]);
  });

  test("tells everything at once", () => {
    const volumes = [{ name: "d", hostPath: { path: "/srv" } }];
    expect(podRefusals(pod({ spec: { hostPID: true, hostNetwork: true, volumes } })).map(({ code }) => code)).toEqual([
      "HOST_NAMESPACE",
      "HOST_NAMESPACE",
      "HOST_PATH",
    ]);
  });
});

const withSidecar = pod({
  spec: {
    initContainers: [
      { name: "prepare", image: "prepare:1" },
      { name: "proxy", image: "proxy:1", restartPolicy: "Always" },
    ],
    containers: [
      { name: "main", image: "shop:1" },
      { name: "second", image: `second@${digest}` },
    ],
    volumes: [
      { name: "cache", emptyDir: {} },
      { name: "settings", configMap: { name: "settings" } },
    ],
  },
  status: {
    initContainerStatuses: [status("prepare"), status("proxy")],
    containerStatuses: [status("second"), { ...status("main"), imageID: `sha256:${"0".repeat(64)}` }],
  },
});

test("podReference names what runs in the order in which the kubelet starts it, and the volumes that are copied", () => {
  expect(podReference(withSidecar)).toEqual({
    namespace: "web",
    name: "shop",
    uid: "u-1",
    containers: [
      { name: "proxy", id: "proxy", restarts: 2 },
      { name: "main", id: "main", restarts: 2 },
      { name: "second", id: "second", restarts: 2 },
    ],
    volumes: ["cache"],
  });
});

test("pulledImages has the images as a registry knows them, and not one that was only imported", () => {
  const image = `registry.example/shop@${digest}`;
  expect(pulledImages(withSidecar)).toEqual([{ name: "proxy", image }, { name: "main" }, { name: "second", image }]);
});

test("livenessBudgetMs is the patience of the least patient liveness probe", () => {
  const probed = (...probes: (object | undefined)[]) =>
    pod({
      spec: {
        containers: probes.map((livenessProbe, at) => ({ name: `c${at}`, image: "x", ...(livenessProbe ? { livenessProbe } : {}) })),
      },
    });
  expect(livenessBudgetMs(probed(undefined))).toBeUndefined();
  expect(livenessBudgetMs(probed({}))).toBe(21_000);
  expect(livenessBudgetMs(probed({}, { periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 2 }, undefined))).toBe(4_000);
});

test("standstillMs leaves a quarter of the budget to an undo, at least one second and at most five", () => {
  expect([700, 3_000, 8_000, 16_000, 21_000, Infinity].map(standstillMs)).toEqual([0, 2_000, 6_000, 12_000, 16_000, Infinity]);
});

test("startBudgetMs counts the delay of a probe, and a startup probe before a liveness probe", () => {
  const probed = (...probes: object[]) =>
    pod({ spec: { containers: probes.map((each, at) => ({ name: `c${at}`, image: "x", ...each })) } });
  expect(startBudgetMs(probed({}))).toBeUndefined();
  expect(startBudgetMs(probed({ readinessProbe: { periodSeconds: 1 } }))).toBeUndefined();
  expect(startBudgetMs(probed({ livenessProbe: { initialDelaySeconds: 30 } }))).toBe(51_000);
  expect(startBudgetMs(probed({ livenessProbe: { periodSeconds: 1 }, startupProbe: { failureThreshold: 30 } }))).toBe(291_000);
  expect(startBudgetMs(probed({ livenessProbe: {} }, { livenessProbe: { periodSeconds: 1 } }))).toBe(3_000);
});

const service = (spec: Service["spec"], labels?: Record<string, string>): Service => ({
  metadata: { name: "shop", uid: "s-1", ...(labels ? { labels } : {}) },
  spec: { clusterIP: "10.0.0.1", ...spec },
});

describe("sharedServices", () => {
  const shop = pod();
  const selector = { app: "shop" };
  const other = pod({ metadata: { name: "shop-2", uid: "u-2" } });

  test("tells of a Service that leads to other pods, too, as its clients can't be led away", () => {
    expect(sharedServices(shop, [service({ selector })], [shop, other])).toEqual([
      { code: "SERVICE_SHARED", detail: "Service shop leads to pod shop-2, too." },
    ]);
  });

  test("has nothing against a Service of its own, a headless one, one that UMS made for it, or pods that don't run", () => {
    expect(sharedServices(shop, [service({ selector })], [shop])).toEqual([]);
    expect(sharedServices(shop, [service({ selector, clusterIP: "None" })], [shop, other])).toEqual([]);
    expect(sharedServices(shop, [service({}, { [podLabel]: "shop" })], [shop, other])).toEqual([]);
    expect(sharedServices(shop, [service({ selector })], [shop, { ...other, status: { phase: "Succeeded" } }])).toEqual([]);
    const leaving = { ...other, metadata: { ...other.metadata, deletionTimestamp: new Date(0).toISOString() } } as unknown as Pod;
    expect(sharedServices(shop, [service({ selector })], [shop, leaving])).toEqual([]);
  });
});

describe("servicePorts", () => {
  const shop = pod({ spec: { containers: [{ name: "main", image: "shop:1", ports: [{ name: "http", containerPort: 8080 }] }] } });

  test("has every way by which a Service leads to the pod: by number, by name, or by the port itself", () => {
    const ports = [
      { port: 80, targetPort: "http" as never, nodePort: 30_080 },
      { port: 81, targetPort: 8081 as never },
      { port: 82 },
      { port: 80, protocol: "UDP", nodePort: 30_080 },
      { port: 83, protocol: "SCTP" },
      { port: 84, targetPort: "unknown" as never },
    ];
    const known = { service: "shop", uid: "s-1", protocol: "tcp", clusterIp: "10.0.0.1" };
    expect(servicePorts(shop, [service({ selector: { app: "shop" }, ports })])).toEqual([
      { ...known, port: 80, nodePort: 30_080, targetPort: 8080 },
      { ...known, port: 81, targetPort: 8081 },
      { ...known, port: 82, targetPort: 82 },
      { ...known, protocol: "udp", port: 80, nodePort: 30_080, targetPort: 80 },
    ]);
  });

  test("knows Services that select other pods, or none, from its own", () => {
    const ports = [{ port: 80 }];
    expect(servicePorts(shop, [service({ selector: { app: "other" }, ports }), service({ ports })])).toEqual([]);
    expect(servicePorts(shop, [service({ selector: { app: "shop", tier: "front" }, ports })])).toEqual([]);
    const headless = servicePorts(shop, [service({ clusterIP: "None", selector: { app: "shop" }, ports })]);
    expect(headless).toEqual([{ service: "shop", uid: "s-1", protocol: "tcp", port: 80, targetPort: 80 }]);
  });

  test("has notes of the clients that are not led", () => {
    const selector = { app: "shop" };
    const all = [
      service({ selector, ports: [{ port: 80 }], clusterIPs: ["10.0.0.1", "fd00::1"] }),
      service({ selector, clusterIP: "None" }),
      service({ selector: { app: "other" }, clusterIP: "None" }),
    ];
    expect(podNotes(shop, [])).toEqual([]);
    expect(podNotes(shop, all)).toEqual(["are reset", "headless", "IPv6"].map((words) => expect.stringContaining(words) as string));
    const onNode = pod({ spec: { containers: [{ name: "main", image: "shop:1", ports: [{ containerPort: 8080, hostPort: 18_080 }] }] } });
    expect(podNotes(onNode, [])).toEqual([expect.stringContaining("18080")]);
  });

  test("has the Service that an earlier move made for it", () => {
    expect(servicePorts(shop, [service({ ports: [{ port: 80, nodePort: 31_000 }] }, { [podLabel]: "shop" })])).toHaveLength(1);
    expect(servicePorts(shop, [service({ ports: [{ port: 80, nodePort: 31_000 }] }, { [podLabel]: "other" })])).toEqual([]);
  });
});

describe("destinationPod", () => {
  const arriving = (source: Pod) => destinationPod(source, { migration: "0123456789ab", images: pulledImages(source) });

  test("waits for its restore, in UMS's runtime, and leaves behind what the source's cluster has added", () => {
    const { metadata, spec, status: none } = arriving(pod({ metadata: { annotations: { note: "kept" } } }));
    expect(metadata).toEqual({
      name: "shop",
      namespace: "web",
      labels: { app: "shop" },
      annotations: { note: "kept", [restoreAnnotation]: "0123456789ab", "ums.dev/migration": "0123456789ab" },
    });
    expect(spec).toEqual({ runtimeClassName: "ums", containers: [{ name: "main", image: `shop:1@${digest}` }] });
    expect(none).toBeUndefined();
  });

  test("keeps sidecars and drops init containers and postStart hooks, which are done", () => {
    const hook = { exec: { command: ["true"] } };
    const source = structuredClone(withSidecar);
    const [main] = source.spec?.containers ?? [];
    if (main) main.lifecycle = { postStart: hook, preStop: hook };
    const { spec } = arriving(source);
    expect(spec?.initContainers).toEqual([{ name: "proxy", image: `proxy:1@${digest}`, restartPolicy: "Always" }]);
    expect(spec?.containers).toEqual([
      { name: "main", image: "shop:1", lifecycle: { preStop: hook } },
      { name: "second", image: `second@${digest}` },
    ]);
  });

  test("that moves on keeps no node label of the RuntimeClass", () => {
    const labels = (nodeSelector: Record<string, string>) => arriving(pod({ spec: { nodeSelector } })).spec?.nodeSelector;
    expect(labels({ "ums.dev/restores": "true" })).toBeUndefined();
    expect(labels({ "ums.dev/restores": "true", disk: "ssd" })).toEqual({ disk: "ssd" });
  });
});
