/** A Pod as the container that a host makes of it. docs/kubernetes.md, “Between clusters and hosts”, has the table. */
import type { Image } from "../../container-engines/engine.ts";
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import { isActedOn } from "../../preflight/policy.ts";
import type { ContainerSpec, PortMapping } from "../../protocol/container-spec.ts";
import type { ContainerNeed } from "../../protocol/container.ts";
import type { Launch } from "../../protocol/launch.ts";
import { serviceNamePattern } from "../../protocol/names.ts";
import type { PodNeed } from "../../protocol/pod.ts";
import { keepPod, volumeOf } from "./kept.ts";
import { type Refusal, refusalsOf } from "./refusals.ts";

type PodSpec = NonNullable<Pod["spec"]>;
type PodContainer = PodSpec["containers"][number];
type Volume = NonNullable<PodSpec["volumes"]>[number];

/** Where the API server mounts a token into a pod that asked for none. */
const tokenDirectory = "/var/run/secrets/kubernetes.io/serviceaccount";
/** A pod's /dev/shm, which the kubelet's runtime makes. */
const shmBytes = 64 << 20;
const restartPolicies: Readonly<Record<string, string>> = { Always: "always", OnFailure: "on-failure", Never: "no" };

/** Stands for an image that this host has not pulled yet. */
const missingImage: Image = { id: "0".repeat(64), names: [], digests: [], layers: [], sizeBytes: 0, format: "oci" };

/** What a host knows of a pod that comes to it. */
export type KnownHere = Readonly<{
  /** Its image; undefined: not pulled yet. */
  image: Image | undefined;
  /** The container of this name as it left this host for the site that the pod comes from. */
  left: ContainerNeed | undefined;
}>;

/** @returns what the host is to make, and why it can't where there are refusals */
export function containerOfPod(asked: PodNeed, { image, left }: KnownHere): { need: ContainerNeed; refusals: Refusal[] } {
  const { kind: _kind, pod: wire, containers, volumes, ports, ...measures } = asked;
  const { metadata, spec } = wire as Pod;
  const [running] = containers;
  const container = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])].find(({ name }) => name === running?.name);
  if (!spec || !running || !container) throw new Error("The pod has no containers.");
  const name = metadata?.name ?? "";
  const reference = running.image;
  const { digests, ...known } = image ?? missingImage;
  const isBack = left && reference !== undefined && left.image.digests.includes(reference) && left.volumes.length === volumes.length;
  const before = isBack ? left : undefined;
  const made = before?.spec ?? specOf(asked, { name, spec, container, launch: running.launch });
  const need: ContainerNeed = {
    kind: "Container",
    spec: { ...made, imageId: known.id, imageName: before?.spec.imageName ?? reference ?? container.image ?? known.id },
    image: { ...known, names: [...known.names], layers: [...known.layers], digests: reference === undefined ? [...digests] : [reference] },
    volumes: before?.volumes ?? volumes.map((volume) => ({ name: volumeOf(name, volume), labels: {} })),
    launch: running.launch,
    ...measures,
  };
  const noImage = !image && reference === undefined;
  return {
    need,
    refusals: [
      ...refusalsOf("IMAGE_NOT_IN_REGISTRY", [[noImage, `The pod's node knows no registry that has ${container.image ?? "its image"}.`]]),
      ...refusals(asked, { spec, container }),
    ],
  };
}

type Parts = Readonly<{ name: string; spec: PodSpec; container: PodContainer; launch: Launch }>;

function specOf({ pod, volumes, ports }: PodNeed, { name, spec, container, launch }: Parts): Omit<ContainerSpec, "imageId" | "imageName"> {
  const { metadata = {} } = pod as Pod;
  const { HOSTNAME: _pods, ...env } = launch.env;
  return {
    name,
    entrypoint: launch.args,
    command: [],
    env: { ...env, container: "podman" }, // Podman's own
    user: `${launch.uid}:${launch.gid}`,
    groups: launch.groups.map(String).toSorted(),
    workDirectory: launch.workDirectory,
    labels: metadata.labels ?? {},
    // What only a container's engine would act upon stays in the note of the Pod alone.
    annotations: { ...withoutActedOn(metadata.annotations), ...keepPod(pod) },
    hostname: spec.hostname ?? name,
    ports: portsOf(container, ports),
    volumes: (container.volumeMounts ?? [])
      .filter((mount) => volumes.includes(mount.name))
      .map((mount) => ({
        name: volumeOf(name, mount.name),
        destination: mount.mountPath,
        options: [],
        readOnly: mount.readOnly ?? false,
      }))
      .toSorted((a, b) => (a.destination < b.destination ? -1 : 1)),
    binds: [],
    tmpfs: {},
    shmBytes,
    restartPolicy: { name: restartPolicies[spec.restartPolicy ?? "Always"] ?? "no", retries: 0 },
    stopSignal: 15,
    stopTimeoutS: spec.terminationGracePeriodSeconds ?? 30,
    limits: limitsOf(launch.limits),
    oomScoreAdj: 0,
    ulimits: [],
    ...securityOf(container),
    init: false,
    dns: { servers: [], search: [], options: [] },
    extraHosts: (spec.hostAliases ?? []).flatMap(({ ip, hostnames = [] }) => hostnames.map((each) => `${each}:${ip}`)),
    sysctls: Object.fromEntries((spec.securityContext?.sysctls ?? []).map((each) => [each.name, each.value])),
    log: { driver: "k8s-file", size: "0B", tag: "" },
    timezone: "",
    umask: "0022",
    networks: { podman: { aliases: [] } },
  };
}

const withoutActedOn = (annotations: Readonly<Record<string, string>> = {}) =>
  Object.fromEntries(Object.entries(annotations).filter(([name]) => !isActedOn(name)));

/** What leads to the pod from its nodes' ports, or from its Services', leads to it from the host's. */
function portsOf({ ports: declared = [] }: PodContainer, reached: PodNeed["ports"]): PortMapping[] {
  const onNode = declared.flatMap(({ containerPort, hostPort, hostIP, protocol = "TCP" }) =>
    hostPort === undefined
      ? []
      : [
          {
            hostIp: hostIP ?? "",
            hostPort,
            containerPort,
            protocol: protocol.toLowerCase() as PortMapping["protocol"],
          },
        ],
  );
  const byService = reached.map(({ port, published, protocol }) => ({ hostIp: "", hostPort: published, containerPort: port, protocol }));
  const byHostPort = new Map([...byService, ...onNode].map((port) => [`${port.hostPort}/${port.protocol}`, port]));
  return [...byHostPort.values()].toSorted((a, b) => a.hostPort - b.hostPort || (a.protocol < b.protocol ? -1 : 1));
}

/** What the kubelet gives a container that asks for no CPU time: a host would take it for a limit. */
const noCpuShares = 2;

const limitsOf = ({ memoryBytes, cpuShares, cpuPeriodUs, cpuQuotaUs }: Launch["limits"]) => ({
  memoryBytes,
  memorySwapBytes: 0,
  memoryReservationBytes: 0,
  memorySwappiness: -1,
  oomKillDisable: false,
  cpuShares: cpuShares > noCpuShares ? cpuShares : 0,
  cpuPeriod: cpuQuotaUs > 0 ? cpuPeriodUs : 0,
  cpuQuota: cpuQuotaUs,
  cpusetCpus: "",
  cpusetMems: "",
  pids: 0,
  blkioWeight: 0,
});

function securityOf({ securityContext = {} }: PodContainer): Pick<ContainerSpec, "capAdd" | "capDrop" | "securityOptions" | "readOnly"> {
  const { capabilities = {}, allowPrivilegeEscalation, seccompProfile, readOnlyRootFilesystem = false } = securityContext;
  const named = (names: readonly string[] = []) => names.map((each) => (each === "ALL" ? each : `CAP_${each}`)).toSorted();
  return {
    capAdd: named(capabilities.add),
    capDrop: named(capabilities.drop),
    securityOptions: [
      ...(allowPrivilegeEscalation === false ? ["no-new-privileges"] : []),
      ...(seccompProfile?.type === "Unconfined" ? ["seccomp=unconfined"] : []),
    ],
    readOnly: readOnlyRootFilesystem,
  };
}

function refusals({ pod, containers, volumes }: PodNeed, { spec, container }: Pick<Parts, "spec" | "container">): Refusal[] {
  const { name } = pod.metadata;
  const { securityContext = {}, volumeMounts = [], lifecycle } = container;
  const isMounted = (volume: string) => volumeMounts.some((mount) => mount.name === volume);
  const seccomp = [securityContext.seccompProfile?.type, spec.securityContext?.seccompProfile?.type];
  return [
    ...refusalsOf("SEVERAL_CONTAINERS", [[containers.length > 1, `The pod runs ${containers.map((each) => each.name).join(", ")}.`]]),
    ...refusalsOf("NAME_UNUSABLE", [[!new RegExp(serviceNamePattern).test(name), `No container can be called ${name}.`]]),
    ...refusalsOf("NOT_ON_A_HOST", [
      ...(spec.volumes ?? []).map((volume) => [!isMovable(volume, container), `Volume ${volume.name} is ${kindOf(volume)}.`] as const),
      ...volumes.map((volume) => [!isMounted(volume), `Volume ${volume} is mounted by no container that runs.`] as const),
      ...volumeMounts.map(
        ({ mountPath, subPath, subPathExpr, mountPropagation = "None" }) =>
          [
            subPath !== undefined || subPathExpr !== undefined || mountPropagation !== "None",
            `A part of a volume, or mounts made in it, appear at ${mountPath}.`,
          ] as const,
      ),
      [securityContext.privileged === true, "The container is privileged."],
      [securityContext.procMount !== undefined && securityContext.procMount !== "Default", "The container has an unmasked /proc."],
      [seccomp.includes("Localhost"), "A seccomp profile of the node is set."],
      [securityContext.seLinuxOptions !== undefined || spec.securityContext?.seLinuxOptions !== undefined, "SELinux options are set."],
      [lifecycle?.preStop !== undefined, "The container has a preStop hook."],
      [spec.dnsPolicy === "None" || spec.dnsConfig !== undefined, "The pod has a DNS configuration of its own."],
    ]),
  ];
}

const kindOf = (volume: Volume) => {
  if (volume.emptyDir?.medium === "Memory") return "an emptyDir in memory";
  return Object.keys(volume).find((key) => key !== "name") ?? "an emptyDir";
};

/** A token that the pod didn't ask for stays behind: no host's service is known to a cluster. */
function isMovable(volume: Volume, { volumeMounts = [] }: PodContainer): boolean {
  const kind = kindOf(volume);
  if (kind === "projected") return volumeMounts.some(({ name, mountPath }) => name === volume.name && mountPath === tokenDirectory);
  return kind === "emptyDir" || kind === "an emptyDir";
}
