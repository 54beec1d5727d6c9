/** Podman's inspect in, our words out; and our words in, Podman's specification of a new container out. */
import type { ContainerSpec, PortMapping } from "../../protocol/container-spec.ts";
import { type Container, type ContainerState } from "../engine.ts";
import { stateRootOf } from "./runtimes.ts";

/** What `inspect` tells, as far as it is read here (Podman 4.3 to 5.x). */
export type Inspect = {
  Id: string;
  Name: string;
  Path: string;
  Args: string[] | null;
  State: { Status: string; Pid: number };
  Image: string;
  ImageName: string;
  Pod: string;
  Rootfs: string;
  OCIConfigPath: string;
  OCIRuntime: string;
  Driver: string;
  MountLabel: string;
  Dependencies: string[] | null;
  GraphDriver: { Name: string; Data: { UpperDir?: string } | null };
  Mounts:
    | {
        Type: string;
        Name?: string;
        Source: string;
        Destination: string;
        Driver: string;
        Options: string[] | null;
        RW: boolean;
        Propagation: string;
      }[]
    | null;
  NetworkSettings: {
    SandboxKey: string;
    Ports: Record<string, { HostIp: string; HostPort: string }[] | null> | null;
    Networks: Record<string, { Aliases: string[] | null }> | null;
  };
  Config: {
    Hostname: string;
    User: string;
    Tty: boolean;
    OpenStdin: boolean;
    Env: string[] | null;
    Cmd: string[] | null;
    Entrypoint: string | string[] | null;
    WorkingDir: string;
    Labels: Record<string, string> | null;
    Annotations: Record<string, string> | null;
    StopSignal: number | string;
    StopTimeout: number;
    Healthcheck?: { Test?: string[]; Interval?: number; Timeout?: number; StartPeriod?: number; Retries?: number };
    HealthcheckOnFailureAction?: string;
    Timezone?: string;
    Umask?: string;
    Timeout: number;
    Secrets?: unknown[] | null;
    SystemdMode?: boolean;
  };
  HostConfig: {
    LogConfig: { Type: string; Path: string; Tag: string; Size: string };
    NetworkMode: string;
    RestartPolicy: { Name: string; MaximumRetryCount: number };
    AutoRemove: boolean;
    VolumesFrom: string[] | null;
    CapAdd: string[] | null;
    CapDrop: string[] | null;
    Dns: string[] | null;
    DnsOptions: string[] | null;
    DnsSearch: string[] | null;
    ExtraHosts: string[] | null;
    GroupAdd: string[] | null;
    IpcMode: string;
    Cgroups: string;
    CgroupParent: string;
    CgroupMode: string;
    OomScoreAdj: number;
    PidMode: string;
    Privileged: boolean;
    ReadonlyRootfs: boolean;
    SecurityOpt: string[] | null;
    Tmpfs: Record<string, string> | null;
    UTSMode: string;
    UsernsMode: string;
    ShmSize: number;
    CpuShares: number;
    Memory: number;
    CpuPeriod: number;
    CpuQuota: number;
    CpuRealtimePeriod: number;
    CpuRealtimeRuntime: number;
    CpusetCpus: string;
    CpusetMems: string;
    Devices: { PathOnHost: string }[] | null;
    MemoryReservation: number;
    MemorySwap: number;
    MemorySwappiness: number;
    OomKillDisable: boolean;
    PidsLimit: number;
    Ulimits: { Name: string; Soft: number; Hard: number }[] | null;
    BlkioWeight: number;
    BlkioWeightDevice: unknown[] | null;
    BlkioDeviceReadBps: unknown[] | null;
    BlkioDeviceWriteBps: unknown[] | null;
    BlkioDeviceReadIOps: unknown[] | null;
    BlkioDeviceWriteIOps: unknown[] | null;
    Init?: boolean;
  };
};

/** The part of a bundle's config.json that inspect does not show. */
export type OciConfig = {
  linux?: { sysctl?: Record<string, string> };
  mounts?: { destination: string; type: string; source: string }[];
};

/** The image's own settings, needed to tell what the container added. */
export type ImageConfig = { Entrypoint?: string[] | null; Labels?: Record<string, string> | null };

const states: Record<string, ContainerState> = {
  created: "created",
  configured: "created",
  initialized: "created",
  running: "running",
  paused: "paused",
  exited: "exited",
  stopped: "exited",
};
export const stateOf = (status: string): ContainerState => states[status] ?? "other";

/** On containers, as an annotation, and on volumes, as a label: the migration that has made them. */
export const migrationMark = "ums.dev/arrival";

/** Annotations that Podman writes itself, and writes again at the twin. */
const ownAnnotation =
  /^(io\.container\.|io\.kubernetes\.cri-o\.|io\.podman\.annotations\.(autoremove|init|privileged|publish-all|seccomp|label|apparmor)$|org\.opencontainers\.image\.stopSignal$|org\.systemd\.)/;
/** Environment that Podman sets by itself; HOSTNAME follows the container's id unless a hostname was given. */
const generatedHostname = (inspect: Inspect) => inspect.Config.Hostname === inspect.Id.slice(0, 12);

/** @param running what inspect does not show, of a container that has been started, and of the host */
export function describe(
  inspect: Inspect,
  image: ImageConfig,
  { oci, shmDirectory, cgroupVersion }: { oci: OciConfig; shmDirectory: string | undefined; cgroupVersion: 1 | 2 },
): Container {
  const { Config: config, HostConfig: host } = inspect;
  const mounts = inspect.Mounts ?? [];
  const volumes = mounts.filter(({ Type }) => Type === "volume");
  const spec: ContainerSpec = {
    name: inspect.Name,
    imageId: inspect.Image.replace(/^sha256:/, ""),
    imageName: inspect.ImageName,
    entrypoint: entrypointOf(inspect, image),
    command: config.Cmd ?? [],
    env: Object.fromEntries(
      (config.Env ?? [])
        .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)] as const)
        .filter(([name]) => !(name === "HOSTNAME" && generatedHostname(inspect))),
    ),
    user: config.User,
    groups: (host.GroupAdd ?? []).toSorted(),
    workDirectory: config.WorkingDir,
    labels: config.Labels ?? {},
    annotations: Object.fromEntries(
      Object.entries(config.Annotations ?? {}).filter(([key]) => key !== migrationMark && !ownAnnotation.test(key)),
    ),
    ...(generatedHostname(inspect) ? {} : { hostname: config.Hostname }),
    ports: portsOf(inspect),
    volumes: volumes
      .map((mount) => ({
        name: mount.Name ?? "",
        destination: mount.Destination,
        options: (mount.Options ?? []).toSorted(),
        readOnly: !mount.RW,
      }))
      .toSorted((a, b) => (a.destination < b.destination ? -1 : 1)),
    binds: mounts
      .filter(({ Type }) => Type === "bind")
      .map((mount) => ({
        source: mount.Source,
        destination: mount.Destination,
        options: [...(mount.Options ?? []), mount.Propagation].filter(Boolean).toSorted(),
        readOnly: !mount.RW,
      }))
      .toSorted((a, b) => (a.destination < b.destination ? -1 : 1)),
    tmpfs: host.Tmpfs ?? {},
    shmBytes: host.ShmSize,
    restartPolicy: { name: host.RestartPolicy.Name, retries: host.RestartPolicy.MaximumRetryCount },
    ...(config.Healthcheck?.Test?.length
      ? {
          health: {
            test: config.Healthcheck.Test,
            intervalNs: config.Healthcheck.Interval ?? 0,
            timeoutNs: config.Healthcheck.Timeout ?? 0,
            startPeriodNs: config.Healthcheck.StartPeriod ?? 0,
            retries: config.Healthcheck.Retries ?? 0,
            onFailure: config.HealthcheckOnFailureAction ?? "none",
          },
        }
      : {}),
    stopSignal: Number(config.StopSignal),
    stopTimeoutS: config.StopTimeout,
    limits: {
      memoryBytes: host.Memory,
      memorySwapBytes: host.MemorySwap,
      memoryReservationBytes: host.MemoryReservation,
      // Version 2 has none, and Podman shows 0 there where no limit of memory is set.
      memorySwappiness: cgroupVersion === 2 ? -1 : host.MemorySwappiness,
      oomKillDisable: host.OomKillDisable,
      cpuShares: host.CpuShares,
      cpuPeriod: host.CpuPeriod,
      cpuQuota: host.CpuQuota,
      cpusetCpus: host.CpusetCpus,
      cpusetMems: host.CpusetMems,
      pids: host.PidsLimit,
      blkioWeight: host.BlkioWeight,
    },
    oomScoreAdj: host.OomScoreAdj,
    ulimits: (host.Ulimits ?? [])
      .map(({ Name, Soft, Hard }) => ({ name: Name, soft: Soft, hard: Hard }))
      .toSorted((a, b) => (a.name < b.name ? -1 : 1)),
    capAdd: (host.CapAdd ?? []).toSorted(),
    capDrop: (host.CapDrop ?? []).toSorted(),
    securityOptions: (host.SecurityOpt ?? []).toSorted(),
    readOnly: host.ReadonlyRootfs,
    init: host.Init ?? false,
    dns: { servers: host.Dns ?? [], search: host.DnsSearch ?? [], options: host.DnsOptions ?? [] },
    extraHosts: host.ExtraHosts ?? [],
    sysctls: oci.linux?.sysctl ?? {},
    log: { driver: host.LogConfig.Type, size: host.LogConfig.Size, tag: host.LogConfig.Tag },
    timezone: config.Timezone ?? "",
    umask: config.Umask ?? "",
    networks: Object.fromEntries(
      Object.entries(inspect.NetworkSettings.Networks ?? {}).map(([name, { Aliases }]) => [
        name,
        { aliases: (Aliases ?? []).filter((alias) => alias !== inspect.Id.slice(0, 12)).toSorted() },
      ]),
    ),
  };
  const stateRoot = stateRootOf(inspect.OCIRuntime);
  const unit = config.Labels?.PODMAN_SYSTEMD_UNIT;
  return {
    id: inspect.Id,
    name: inspect.Name,
    state: stateOf(inspect.State.Status),
    pid: inspect.State.Pid,
    runtime: inspect.OCIRuntime,
    ociConfigPath: inspect.OCIConfigPath,
    changesDirectory: inspect.GraphDriver.Data?.UpperDir ?? "",
    networkNamespace: inspect.NetworkSettings.SandboxKey,
    ...(stateRoot === undefined ? {} : { stateRoot }),
    ...(shmDirectory === undefined ? {} : { shmDirectory }),
    ...(unit === undefined ? {} : { unit }),
    logPath: host.LogConfig.Path,
    ...(inspect.Pod === "" ? {} : { pod: inspect.Pod }),
    volumes: volumes.map(({ Name, Source }) => ({ name: Name ?? "", directory: Source })),
    spec,
    migration: config.Annotations?.[migrationMark],
    beyond: beyondOf(inspect),
  };
}

/** Inspect joins the entry point's words with blanks, so it is taken from what is known word by word. */
function entrypointOf(inspect: Inspect, image: ImageConfig): string[] {
  const { Entrypoint: joined, Cmd } = inspect.Config;
  if (Array.isArray(joined)) return joined;
  if (joined === null || joined === "") return [];
  if (image.Entrypoint?.join(" ") === joined) return image.Entrypoint;
  const started = [inspect.Path, ...(inspect.Args ?? [])];
  const words = (inspect.HostConfig.Init ? started.slice(2) : started).slice(0, (Cmd ?? []).length === 0 ? undefined : -(Cmd ?? []).length);
  return words.join(" ") === joined ? words : [joined];
}

function portsOf(inspect: Inspect): PortMapping[] {
  return Object.entries(inspect.NetworkSettings.Ports ?? {})
    .flatMap(([port, bindings]) => {
      const [containerPort = "", protocol = "tcp"] = port.split("/");
      return (bindings ?? []).map(({ HostIp, HostPort }) => ({
        hostIp: HostIp,
        hostPort: Number(HostPort),
        containerPort: Number(containerPort),
        protocol: protocol as PortMapping["protocol"],
      }));
    })
    .toSorted((a, b) => a.hostPort - b.hostPort || (a.protocol < b.protocol ? -1 : 1));
}

function beyondOf(inspect: Inspect): string[] {
  const { Config: config, HostConfig: host } = inspect;
  // What it shares with its pod, it would not share alone: that is said of the pod.
  const alone = inspect.Pod === "";
  const has: [boolean, string][] = [
    [inspect.Rootfs !== "", "it runs from a directory instead of an image"],
    [inspect.Driver !== "overlay", `its storage driver is ${inspect.Driver}, not overlay`],
    [alone && (inspect.Dependencies ?? []).length > 0, "it depends on other containers"],
    [inspect.MountLabel !== "", "it carries an SELinux label"],
    [config.Tty, "it has a terminal (-t)"],
    [config.OpenStdin, "its standard input is open (-i)"],
    [(config.Secrets ?? []).length > 0, "it uses secrets"],
    [config.SystemdMode === true, "it runs systemd"],
    [config.Timeout !== 0, "it has a time limit (--timeout)"],
    [host.AutoRemove, "it is removed when it stops (--rm)"],
    [(host.VolumesFrom ?? []).length > 0, "it takes volumes from another container"],
    [host.Privileged, "it is privileged"],
    [(host.Devices ?? []).length > 0, `it has devices: ${(host.Devices ?? []).map(({ PathOnHost }) => PathOnHost).join(", ")}`],
    [alone && host.NetworkMode !== "bridge", `its network mode is ${host.NetworkMode}, not bridge`],
    [alone && host.PidMode !== "private", `its PID namespace is ${host.PidMode}`],
    [alone && !["shareable", "private"].includes(host.IpcMode), `its IPC namespace is ${host.IpcMode}`],
    [alone && host.UTSMode !== "private", `its UTS namespace is ${host.UTSMode}`],
    [host.UsernsMode !== "", `its user namespace is ${host.UsernsMode}`],
    [host.Cgroups !== "default", `its cgroups are ${host.Cgroups}`],
    [alone && host.CgroupParent !== "", `its cgroup parent is ${host.CgroupParent}`],
    [host.CpuRealtimePeriod !== 0 || host.CpuRealtimeRuntime !== 0, "it has a real-time CPU budget"],
    [
      [host.BlkioWeightDevice, host.BlkioDeviceReadBps, host.BlkioDeviceWriteBps, host.BlkioDeviceReadIOps, host.BlkioDeviceWriteIOps].some(
        (list) => (list ?? []).length > 0,
      ),
      "it has limits for single block devices",
    ],
  ];
  return has.filter(([applies]) => applies).map(([, words]) => words);
}

/** Podman's SpecGenerator of a twin. */
export function specGenerator(spec: ContainerSpec, runtime: string): Record<string, unknown> {
  const { limits } = spec;
  const { settings, annotations } = security(spec.securityOptions);
  const set = <T>(value: T, when: boolean) => (when ? value : undefined);
  return {
    name: spec.name,
    image: spec.imageId,
    raw_image_name: spec.imageName,
    oci_runtime: runtime,
    entrypoint: spec.entrypoint,
    command: spec.command,
    env: spec.env,
    user: spec.user,
    groups: spec.groups,
    work_dir: spec.workDirectory,
    labels: spec.labels,
    annotations: { ...spec.annotations, ...annotations },
    hostname: spec.hostname,
    netns: { nsmode: "bridge" },
    Networks: Object.fromEntries(Object.entries(spec.networks).map(([name, { aliases }]) => [name, { aliases }])),
    portmappings: spec.ports.map(({ hostIp, hostPort, containerPort, protocol }) => ({
      host_ip: hostIp,
      host_port: hostPort,
      container_port: containerPort,
      protocol,
    })),
    volumes: spec.volumes.map(({ name, destination, options, readOnly }) => ({
      Name: name,
      Dest: destination,
      Options: [...options, readOnly ? "ro" : "rw"],
    })),
    mounts: [
      ...spec.binds.map(({ source, destination, options, readOnly }) => ({
        type: "bind",
        source,
        destination,
        options: [...options, readOnly ? "ro" : "rw"],
      })),
      ...Object.entries(spec.tmpfs).map(([destination, options]) => ({
        type: "tmpfs",
        source: "tmpfs",
        destination,
        options: options.split(","),
      })),
    ],
    image_volume_mode: "ignore",
    shm_size: spec.shmBytes,
    restart_policy: spec.restartPolicy.name,
    restart_tries: spec.restartPolicy.retries,
    ...(spec.health
      ? {
          healthconfig: {
            Test: spec.health.test,
            Interval: spec.health.intervalNs,
            Timeout: spec.health.timeoutNs,
            StartPeriod: spec.health.startPeriodNs,
            Retries: spec.health.retries,
          },
          health_check_on_failure_action: onFailure.indexOf(spec.health.onFailure),
        }
      : {}),
    stop_signal: spec.stopSignal,
    stop_timeout: spec.stopTimeoutS,
    resource_limits: {
      memory: {
        limit: set(limits.memoryBytes, limits.memoryBytes > 0),
        swap: set(limits.memorySwapBytes, limits.memorySwapBytes > 0),
        reservation: set(limits.memoryReservationBytes, limits.memoryReservationBytes > 0),
        swappiness: set(limits.memorySwappiness, limits.memorySwappiness >= 0),
        disableOOMKiller: set(true, limits.oomKillDisable),
      },
      cpu: {
        shares: set(limits.cpuShares, limits.cpuShares > 0),
        period: set(limits.cpuPeriod, limits.cpuPeriod > 0),
        quota: set(limits.cpuQuota, limits.cpuQuota > 0),
        cpus: set(limits.cpusetCpus, limits.cpusetCpus !== ""),
        mems: set(limits.cpusetMems, limits.cpusetMems !== ""),
      },
      pids: set({ limit: limits.pids }, limits.pids > 0),
      blockIO: set({ weight: limits.blkioWeight }, limits.blkioWeight > 0),
    },
    oom_score_adj: spec.oomScoreAdj,
    r_limits: spec.ulimits.map(({ name, soft, hard }) => ({ type: name.replace(/^RLIMIT_/, ""), soft, hard })),
    cap_add: spec.capAdd,
    cap_drop: spec.capDrop,
    ...settings,
    read_only_filesystem: spec.readOnly,
    init: spec.init,
    dns_server: spec.dns.servers,
    dns_search: spec.dns.search,
    dns_option: spec.dns.options,
    hostadd: spec.extraHosts,
    sysctl: spec.sysctls,
    log_configuration: {
      driver: spec.log.driver,
      ...(spec.log.tag === "" ? {} : { options: { tag: spec.log.tag } }),
      ...sizeOf(spec.log.size),
    },
    timezone: spec.timezone,
    umask: spec.umask,
    systemd: "false",
  };
}

/** In the order of Podman's own numbers; the second stands for none that it knows. */
const onFailure = ["none", "invalid", "kill", "restart", "stop"];

/** What `inspect` shows of these comes from annotations that Podman's command line writes, not its API. */
const securityAnnotations = {
  seccomp: "io.podman.annotations.seccomp",
  apparmor: "io.podman.annotations.apparmor",
  label: "io.podman.annotations.label",
};

function security(options: readonly string[]): { settings: Record<string, unknown>; annotations: Record<string, string> } {
  const valuesOf = (kind: string) => options.flatMap((option) => (option.startsWith(`${kind}=`) ? [option.slice(kind.length + 1)] : []));
  const [[profile], [apparmor], labels] = [valuesOf("seccomp"), valuesOf("apparmor"), valuesOf("label")];
  return {
    settings: {
      no_new_privileges: options.includes("no-new-privileges"),
      seccomp_profile_path: profile,
      apparmor_profile: apparmor,
      selinux_opts: labels,
    },
    annotations: {
      ...(profile === undefined ? {} : { [securityAnnotations.seccomp]: profile }),
      ...(apparmor === undefined ? {} : { [securityAnnotations.apparmor]: apparmor }),
      ...(labels.length === 0 ? {} : { [securityAnnotations.label]: labels.join(",label=") }),
    },
  };
}

const units: Record<string, number> = { B: 1, kB: 1000, MB: 1000 ** 2, GB: 1000 ** 3, TB: 1000 ** 4 };
function sizeOf(size: string): { size?: number } {
  const [, number, unit] = /^([\d.]+)([kMGT]?B)$/.exec(size) ?? [];
  const bytes = Number(number) * (units[unit ?? ""] ?? 0);
  return bytes > 0 ? { size: Math.round(bytes) } : {};
}
