/** A host's container as the Pod that a cluster makes of it. docs/kubernetes.md, “Between clusters and hosts”, has the table. */
import type { Pod } from "../../platforms/kubernetes/kinds.ts";
import { safeSysctls } from "../../preflight/policy.ts";
import type { ContainerSpec } from "../../protocol/container-spec.ts";
import type { ContainerNeed } from "../../protocol/container.ts";
import { podNamePattern } from "../../protocol/names.ts";
import type { PodNeed } from "../../protocol/pod.ts";
import { keptPod } from "./kept.ts";
import { type Refusal, refusalsOf } from "./refusals.ts";

type PodSpec = NonNullable<Pod["spec"]>;

const podShmBytes = 64 << 20;
const restartPolicies: Readonly<Record<string, string>> = {
  always: "Always",
  "unless-stopped": "Always",
  "on-failure": "OnFailure",
};
const expressibleSecurity = new Set(["no-new-privileges", "seccomp=unconfined"]);
/** What Podman, or the kubelet, gives each container by itself. */
const generatedEnv = new Set(["container", "HOSTNAME"]);
const labelKey = /^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const labelValue = /^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$/;
const label = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** @returns what the cluster is to make, and why it can't where there are refusals */
export function podOfContainer(asked: ContainerNeed): { need: PodNeed; refusals: Refusal[] } {
  const { kind: _kind, spec, image: _image, volumes, launch, ...measures } = asked;
  const before = keptPod(asked);
  const reference = imageReference(asked);
  const pod = before?.pod ?? madePod(asked, reference);
  const need: PodNeed = {
    kind: "Pod",
    pod: pod as PodNeed["pod"],
    containers: [{ name: pod.spec?.containers[0]?.name ?? "", launch, ...(reference === undefined ? {} : { image: reference }) }],
    volumes: before?.volumes ?? volumes.map(({ name }, at) => volumeName(name, at)),
    ports: spec.ports.flatMap(({ containerPort, hostPort, protocol }) =>
      protocol === "sctp" ? [] : [{ port: containerPort, published: hostPort, protocol }],
    ),
    ...measures,
  };
  return {
    need,
    refusals: [
      ...refusalsOfName(spec),
      ...refusalsOfImage(spec, reference),
      ...refusalsOfMounts(spec),
      ...(before ? [] : refusalsOfSettings(spec)),
    ],
  };
}

/** The image by a digest that a registry may have; its own name's before those of its other names. */
function imageReference({ spec, image }: ContainerNeed): string | undefined {
  const repository = spec.imageName.replace(/(@.*|:[^/:]*)$/, "");
  const remote = image.digests.filter((digest) => !digest.startsWith("localhost/"));
  return remote.find((digest) => digest.startsWith(`${repository}@`)) ?? remote[0];
}

const volumeName = (name: string, at: number) => (label.test(name) ? name : `volume-${at}`);

function madePod({ spec, volumes, launch }: ContainerNeed, image: string | undefined): Pod {
  const isLabel = ([key, value]: [string, string]) => labelKey.test(key) && labelValue.test(value);
  const labels = Object.entries(spec.labels);
  const names = new Map(volumes.map(({ name }, at) => [name, volumeName(name, at)]));
  return {
    metadata: {
      name: spec.name,
      namespace: "default",
      labels: Object.fromEntries(labels.filter(isLabel)),
      annotations: Object.fromEntries(
        [...labels.filter((entry) => !isLabel(entry)), ...Object.entries(spec.annotations)].filter(([key]) => labelKey.test(key)),
      ),
    },
    spec: {
      restartPolicy: restartPolicies[spec.restartPolicy.name] ?? "Never",
      terminationGracePeriodSeconds: spec.stopTimeoutS,
      // It has known no cluster so far.
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      ...(spec.hostname === undefined ? {} : { hostname: spec.hostname }),
      securityContext: {
        supplementalGroups: launch.groups,
        sysctls: Object.entries(spec.sysctls).map(([name, value]) => ({ name, value })),
      },
      containers: [
        {
          name: containerName(spec.name),
          image: image ?? spec.imageName,
          command: launch.args.map(literal),
          env: Object.entries(launch.env)
            .filter(([name]) => !generatedEnv.has(name))
            .map(([name, value]) => ({ name, value: literal(value) })),
          workingDir: launch.workDirectory,
          ports: spec.ports.map(({ containerPort, protocol }) => ({ containerPort, protocol: protocol.toUpperCase() })).filter(isFirst),
          resources: resourcesOf(launch.limits),
          securityContext: securityOf(spec, launch),
          volumeMounts: spec.volumes.map(({ name, destination, readOnly }) => ({
            name: names.get(name) ?? name,
            mountPath: destination,
            readOnly,
          })),
        },
      ],
      volumes: [...names.values()].map((name) => ({ name, emptyDir: {} })),
    },
  };
}

/** Kubernetes puts variables into commands and values, `$(NAME)`, and reads `$$` as `$`. */
const literal = (text: string) => text.replaceAll("$", "$$$$");
const containerName = (name: string) =>
  name
    .replaceAll(/[^a-z0-9-]/g, "-")
    .slice(0, 63)
    .replaceAll(/^-+|-+$/g, "");
const isFirst = (port: { containerPort: number; protocol: string }, at: number, all: readonly (typeof port)[]) =>
  all.findIndex((each) => each.containerPort === port.containerPort && each.protocol === port.protocol) === at;

function resourcesOf({ memoryBytes, cpuShares, cpuPeriodUs, cpuQuotaUs }: ContainerNeed["launch"]["limits"]) {
  const milli = (cpus: number) => `${Math.max(1, Math.round(cpus * 1000))}m`;
  const limits = {
    ...(memoryBytes > 0 ? { memory: String(memoryBytes) } : {}),
    ...(cpuQuotaUs > 0 && cpuPeriodUs > 0 ? { cpu: milli(cpuQuotaUs / cpuPeriodUs) } : {}),
  };
  const requests = cpuShares > 0 ? { cpu: milli(cpuShares / 1024) } : {};
  return { limits, requests };
}

function securityOf(
  spec: ContainerSpec,
  { uid, gid }: ContainerNeed["launch"],
): NonNullable<PodSpec["containers"][number]["securityContext"]> {
  const named = (names: readonly string[]) => names.map((name) => name.replace(/^CAP_/, ""));
  return {
    runAsUser: uid,
    runAsGroup: gid,
    readOnlyRootFilesystem: spec.readOnly,
    capabilities: { add: named(spec.capAdd), drop: named(spec.capDrop) },
    ...(spec.securityOptions.includes("no-new-privileges") ? { allowPrivilegeEscalation: false } : {}),
    ...(spec.securityOptions.includes("seccomp=unconfined") ? { seccompProfile: { type: "Unconfined" } } : {}),
  };
}

const refusalsOfName = ({ name }: ContainerSpec) =>
  refusalsOf("NAME_UNUSABLE", [[!new RegExp(podNamePattern).test(name), `No Pod can be called ${name}.`]]);

const refusalsOfImage = (spec: ContainerSpec, reference: string | undefined) =>
  refusalsOf("IMAGE_NOT_IN_REGISTRY", [[reference === undefined, `The host knows no registry that has ${spec.imageName}.`]]);

/** What was mounted into it at its making: also into a copy of a container that was a Pod. */
function refusalsOfMounts({ binds, tmpfs }: ContainerSpec): Refusal[] {
  const places = Object.keys(tmpfs);
  return [
    ...refusalsOf(
      "BIND_MOUNT",
      binds.map(({ source, destination }) => [true, `The host's ${source} is mounted at ${destination}.`]),
    ),
    ...refusalsOf("NOT_IN_A_POD", [[places.length > 0, `It has a tmpfs at ${places.join(", ")}.`]]),
  ];
}

function refusalsOfSettings(spec: ContainerSpec): Refusal[] {
  const { limits, health, dns } = spec;
  const networks = Object.entries(spec.networks);
  const foreign = spec.securityOptions.filter((option) => !expressibleSecurity.has(option));
  const unsafe = Object.keys(spec.sysctls).filter((name) => !safeSysctls.includes(name));
  return refusalsOf("NOT_IN_A_POD", [
    [spec.ports.some(({ protocol }) => protocol === "sctp"), "It publishes a port of SCTP."],
    [spec.ports.some(({ hostIp }) => hostIp !== "" && hostIp !== "0.0.0.0"), "It publishes a port on one address alone."],
    [
      networks.length !== 1 || networks.some(([name, { aliases }]) => name !== "podman" || aliases.length > 0),
      "It has other networks than podman's default, or a name in one.",
    ],
    [health !== undefined && health.test[0] !== "NONE", "It has a health check."],
    [spec.init, "Podman's own init runs in it (--init)."],
    [spec.shmBytes > podShmBytes, `Its /dev/shm has more than ${podShmBytes >> 20} MiB.`],
    [dns.servers.length + dns.search.length + dns.options.length + spec.extraHosts.length > 0, "It has DNS settings or hosts of its own."],
    [spec.hostname !== undefined && !label.test(spec.hostname), `No pod can have the hostname ${spec.hostname}.`],
    [foreign.length > 0, `It has the security options ${foreign.join(", ")}.`],
    [unsafe.length > 0, `It sets ${unsafe.join(", ")}, which kubelets refuse.`],
    [
      limits.memoryReservationBytes > 0 || limits.memorySwappiness > 0 || limits.oomKillDisable,
      "It has a memory reservation, a swappiness, or no OOM killer.",
    ],
    [limits.cpusetCpus !== "" || limits.cpusetMems !== "", "It is bound to CPUs or memory nodes."],
    [limits.blkioWeight > 0, "It has a weight for block I/O."],
    [spec.oomScoreAdj !== 0, "Its OOM score is adjusted."],
    [spec.timezone !== "", "It has a time zone of its own."],
    [spec.umask !== "" && spec.umask !== "0022", `Its umask is ${spec.umask}.`],
  ]);
}
