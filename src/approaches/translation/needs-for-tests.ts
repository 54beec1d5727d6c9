/** A service as either kind of source describes it, for the tests of the translations. */
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import type { ContainerSpec } from "../../protocol/container-spec.ts";
import type { ContainerNeed } from "../../protocol/container.ts";
import type { Launch } from "../../protocol/launch.ts";
import type { PodNeed } from "../../protocol/pod.ts";

export const digest = `sha256:${"d".repeat(64)}`;
export const imageOnHost = {
  id: "1".repeat(64),
  names: ["registry.example/shop:1"],
  digests: [`registry.example/shop@${digest}`],
  layers: [],
  sizeBytes: 5,
  format: "oci" as const,
};
const measures = { memoryBytes: 1, fileBytes: 2, kernel: "6.1", cpuFeatures: [], cgroupVersion: 2 as const, uids: [0] };

export const launch: Launch = {
  args: ["server", "--save", ""],
  env: { PATH: "/bin", HOSTNAME: "shop", COLOUR: "green" },
  workDirectory: "/data",
  uid: 999,
  gid: 999,
  groups: [5],
  mounts: [{ destination: "/dev/termination-log", kind: "file" }],
  limits: { memoryBytes: 64 << 20, cpuShares: 512, cpuPeriodUs: 100_000, cpuQuotaUs: 50_000 },
};

type PodSpec = NonNullable<Pod["spec"]>;
type Settings = Readonly<{ spec?: Partial<PodSpec>; container?: Partial<PodSpec["containers"][number]>; need?: Partial<PodNeed> }>;

export function podNeed({ spec = {}, container = {}, need = {} }: Settings = {}): PodNeed {
  const pod: Pod = {
    metadata: { name: "shop", namespace: "web", uid: "u-1", labels: { app: "shop" }, annotations: { note: "kept" } },
    spec: {
      containers: [{ name: "main", image: "registry.example/shop:1", volumeMounts: [{ name: "data", mountPath: "/data" }], ...container }],
      volumes: [{ name: "data", emptyDir: {} }],
      ...spec,
    },
  };
  return {
    kind: "Pod",
    pod: pod as PodNeed["pod"],
    containers: [{ name: "main", image: `registry.example/shop@${digest}`, launch }],
    volumes: ["data"],
    ports: [{ port: 80, published: 30_080, protocol: "tcp" }],
    ...measures,
    ...need,
  };
}

export function containerNeed(more: Partial<ContainerSpec> = {}, need: Partial<ContainerNeed> = {}): ContainerNeed {
  const spec: ContainerSpec = {
    name: "shop",
    imageId: imageOnHost.id,
    imageName: "registry.example/shop:1",
    entrypoint: [],
    command: ["server"],
    env: {},
    user: "",
    groups: [],
    workDirectory: "/data",
    labels: { app: "shop", "org.example.title": "Everything for the garden" },
    annotations: {},
    ports: [{ hostIp: "", hostPort: 8080, containerPort: 80, protocol: "tcp" }],
    volumes: [{ name: "shop_data", destination: "/data", options: ["nodev"], readOnly: false }],
    binds: [],
    tmpfs: {},
    shmBytes: 65_536_000,
    restartPolicy: { name: "unless-stopped", retries: 0 },
    stopSignal: 15,
    stopTimeoutS: 10,
    limits: {
      memoryBytes: 64 << 20,
      memorySwapBytes: 128 << 20,
      memoryReservationBytes: 0,
      memorySwappiness: -1,
      oomKillDisable: false,
      cpuShares: 512,
      cpuPeriod: 100_000,
      cpuQuota: 50_000,
      cpusetCpus: "",
      cpusetMems: "",
      pids: 2048,
      blkioWeight: 0,
    },
    oomScoreAdj: 0,
    ulimits: [{ name: "RLIMIT_NOFILE", soft: 1024, hard: 1024 }],
    capAdd: ["CAP_NET_ADMIN"],
    capDrop: [],
    securityOptions: ["no-new-privileges"],
    readOnly: false,
    init: false,
    dns: { servers: [], search: [], options: [] },
    extraHosts: [],
    sysctls: { "net.ipv4.ping_group_range": "0 0" },
    log: { driver: "k8s-file", size: "0B", tag: "" },
    timezone: "",
    umask: "0022",
    networks: { podman: { aliases: [] } },
    ...more,
  };
  const volumes = [{ name: "shop_data", labels: {} }];
  return { kind: "Container", spec, image: imageOnHost, volumes, launch, ...measures, ...need };
}
