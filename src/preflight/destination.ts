/** Whether a service that another site describes can be taken in here. Changes nothing. */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { access, readdir, readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { cgroupVersion } from "../checkpoint/cgroups.ts";
import type { Accepting } from "../accept.ts";
import type { ContainerEngine, Image } from "../container-engines/engine.ts";
import type { ContainerSpec, PortMapping } from "../protocol/container-spec.ts";
import type { ContainerNeed } from "../protocol/container.ts";
import type { CheckAnswer } from "../protocol/conversation.ts";
import type { CheckResult } from "../protocol/measures.ts";
import type { ForwardedPort } from "../traffic/forward.ts";
import { summary, verdict } from "./check.ts";
import { disk, memory, sameMachine } from "./machine.ts";
import { containerPolicy, linkedMounts, notTaken } from "./policy.ts";
import { type SiteSettings, siteChecks } from "./site.ts";

const diskSlackBytes = 64 << 20;

/** `migration`: what led the clients away. */
export type LedPort = ForwardedPort & Readonly<{ service: string; migration: string }>;

type Parts = Readonly<{
  need: ContainerNeed;
  engine: ContainerEngine;
  settings: SiteSettings;
  /** Of the site that sends. */
  accept: Accepting;
  /** Of the pod that it was, where it comes from a cluster. */
  namespace?: string | undefined;
  /** Ports whose clients are led to other services, which have moved from here. */
  led: readonly LedPort[];
  signal: AbortSignal;
}>;

export async function destinationChecks({ need, engine, settings, accept, namespace, led, signal }: Parts): Promise<CheckAnswer> {
  const closed = notTaken("container-level", accept);
  if (closed) return { checks: [closed], imageBytes: 0 };
  const [site, machine, imageBytes] = await Promise.all([
    siteChecks({ settings, engine, signal }),
    sameMachine(need),
    missingImageBytes(engine, need.image, signal),
  ]);
  const own = await Promise.all([
    name(engine, need, signal),
    ports(need.spec.ports, led),
    volumes(engine, need),
    networks(engine, need),
    bindMounts(need),
    bindMountLinks(need),
    seccompProfile(need.spec),
    apparmorProfile(need.spec),
    memory(settings.imageDirectories, need),
    diskOf({ engine, stateDirectory: settings.stateDirectory, need, imageBytes, signal }),
    cgroupLimits(need.spec),
    ulimits(need.spec),
    engine.twinChecks(need.spec),
  ]);
  signal.throwIfAborted();
  return { checks: [...summary("the host", site), containerPolicy(need, accept, namespace), ...own.flat(), ...machine], imageBytes };
}

const isThere = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  );

async function name(engine: ContainerEngine, { spec }: ContainerNeed, signal: AbortSignal): Promise<CheckResult> {
  const taken = await engine.find(spec.name, signal);
  return verdict("name", "NAME_TAKEN", taken ? [`Container ${spec.name} exists already, ${taken.state}.`] : []);
}

/** UMS's own forwarding takes no socket. */
async function ports(wanted: readonly PortMapping[], led: readonly LedPort[]): Promise<CheckResult> {
  const failures = await Promise.all(wanted.map(async (port) => ({ port, failure: await bindFailure(port) })));
  const words = ({ hostIp, hostPort, protocol }: PortMapping) =>
    `${hostIp.includes(":") ? `[${hostIp}]` : hostIp || "0.0.0.0"}:${hostPort}/${protocol}`;
  const missing = failures
    .filter(({ failure }) => failure === "EADDRNOTAVAIL")
    .map(({ port }) => `This host has no address ${port.hostIp}.`);
  if (missing.length > 0) return verdict("ports", "ADDRESS_MISSING", [...new Set(missing)]);
  const taken = failures.filter(({ failure }) => failure !== undefined);
  const ledAway = wanted.flatMap((port) =>
    led.filter((each) => overlap(each, port)).map(({ service, migration }) => ({ port, service, migration })),
  );
  return verdict("ports", "PORT_TAKEN", [
    ...taken.map(({ port, failure }) => `Port ${words(port)} can't be had (${failure}).`),
    ...ledAway.map(
      ({ port, service, migration }) =>
        `Clients of port ${words(port)} are led to ${service}, which has moved from here: \`ums release ${migration}\` ends that.`,
    ),
  ]);
}

const isAny = (hostIp: string) => hostIp === "" || hostIp === "0.0.0.0";
/** Whether the same packets would come to both. */
export const overlap = (one: ForwardedPort, other: ForwardedPort) =>
  one.hostPort === other.hostPort &&
  one.protocol === other.protocol &&
  (one.hostIp === other.hostIp || isAny(one.hostIp) || isAny(other.hostIp));

/** The only sure way to know: something may hold the port without listening. @returns the error's code */
async function bindFailure({ hostIp, hostPort, protocol }: PortMapping): Promise<string | undefined> {
  const host = hostIp === "" ? "0.0.0.0" : hostIp;
  try {
    if (protocol === "tcp") {
      const server = createServer().listen({ host, port: hostPort, exclusive: true });
      await once(server, "listening");
      server.close();
    } else if (protocol === "udp") {
      const socket = createSocket(host.includes(":") ? "udp6" : "udp4").bind({ address: host, port: hostPort, exclusive: true });
      await once(socket, "listening");
      socket.close();
    }
    return undefined;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code ?? "unknown";
  }
}

async function volumes(engine: ContainerEngine, need: ContainerNeed): Promise<CheckResult> {
  // One that is mounted, and not announced, would be another service's.
  const foreign = need.spec.volumes.filter(({ name }) => need.volumes.every((volume) => volume.name !== name));
  if (foreign.length > 0)
    return verdict(
      "volumes",
      "BAD_REQUEST",
      foreign.map(({ name }) => `Volume ${name} is mounted, and was not announced.`),
    );
  const found = await Promise.all(need.volumes.map((volume) => engine.findVolume(volume.name)));
  return verdict(
    "volumes",
    "VOLUME_EXISTS",
    found.flatMap((volume) =>
      volume ? [`Volume ${volume.name} exists already${volume.users.length > 0 ? `, used by ${volume.users.join(", ")}` : ""}.`] : [],
    ),
  );
}

async function networks(engine: ContainerEngine, { spec }: ContainerNeed): Promise<CheckResult> {
  const there = await engine.networks();
  return verdict(
    "networks",
    "NETWORK_MISSING",
    Object.keys(spec.networks)
      .filter((network) => !there.includes(network))
      .map((network) => `There is no network ${network}.`),
  );
}

async function bindMounts({ spec }: ContainerNeed): Promise<CheckResult> {
  const missing = await Promise.all(spec.binds.map(async ({ source }) => ((await isThere(source)) ? [] : [`${source} does not exist.`])));
  return verdict("bind mounts", "BIND_MOUNT_MISSING", missing.flat());
}

async function bindMountLinks({ spec }: ContainerNeed): Promise<CheckResult> {
  return verdict("bind mounts' places", "POLICY", await linkedMounts(spec));
}

async function seccompProfile({ securityOptions }: ContainerSpec): Promise<CheckResult> {
  const files = securityOptions.filter((option) => option.startsWith("seccomp=/")).map((option) => option.slice("seccomp=".length));
  const missing = await Promise.all(files.map(async (file) => ((await isThere(file)) ? [] : [`${file} does not exist.`])));
  return verdict("seccomp profile", "SECCOMP_PROFILE_MISSING", missing.flat());
}

async function apparmorProfile({ securityOptions }: ContainerSpec): Promise<CheckResult> {
  const wanted = securityOptions.flatMap((option) => /^apparmor=(?!unconfined$)(.+)$/.exec(option)?.[1] ?? []);
  // Nobody can read them where the kernel has no AppArmor, and then Podman gives none.
  const loaded = await readFile("/sys/kernel/security/apparmor/profiles", "utf8").catch(() => "");
  return verdict("AppArmor profile", "APPARMOR_PROFILE_MISSING", missingProfiles(wanted, loaded));
}

/** @param loaded as the kernel lists them: a name, and its mode in brackets */
export function missingProfiles(wanted: readonly string[], loaded: string): string[] {
  const names = new Set(loaded.split("\n").map((line) => line.replace(/ \(\w+\)$/, "")));
  return wanted.filter((profile) => !names.has(profile)).map((profile) => `The profile ${profile} is not loaded.`);
}

async function diskOf({
  engine,
  stateDirectory,
  need,
  imageBytes,
  signal,
}: {
  engine: ContainerEngine;
  stateDirectory: string;
  need: ContainerNeed;
  imageBytes: number;
  signal: AbortSignal;
}): Promise<CheckResult> {
  return await disk([
    { directory: await engine.storageDirectory(signal), bytes: need.fileBytes + imageBytes + diskSlackBytes },
    // The missing layers lie in the state directory until Podman has read them.
    { directory: stateDirectory, bytes: imageBytes },
  ]);
}

/** What has to come over: the image but for the layers that the largest image here has in common with it. */
async function missingImageBytes(engine: ContainerEngine, wanted: ContainerNeed["image"], signal: AbortSignal): Promise<number> {
  if (await engine.findImage(wanted.id, signal)) return 0;
  return missingBytes(wanted, await engine.images(signal));
}

export function missingBytes(wanted: Pick<Image, "layers" | "sizeBytes">, images: readonly Pick<Image, "layers" | "sizeBytes">[]): number {
  // Layers' own sizes are not told, but an image all of whose layers are wanted has just their size.
  const common = images.filter(({ layers }) => layers.every((layer) => wanted.layers.includes(layer))).map(({ sizeBytes }) => sizeBytes);
  return Math.max(0, wanted.sizeBytes - Math.max(0, ...common));
}

/** Which controller each limit needs. */
async function cgroupLimits({ limits }: ContainerSpec): Promise<CheckResult> {
  const version = await cgroupVersion();
  const controllers =
    version === 2
      ? (await readFile("/sys/fs/cgroup/cgroup.controllers", "utf8").catch(() => "")).trim().split(" ")
      : await readdir("/sys/fs/cgroup").catch(() => []);
  const has = (...names: string[]) => names.some((each) => controllers.some((controller) => controller.split(",").includes(each)));
  const wanted: [boolean, boolean, string][] = [
    [limits.memoryBytes > 0 || limits.memoryReservationBytes > 0, has("memory"), "memory"],
    [limits.memorySwapBytes > 0, has("memory"), "swap"],
    [limits.memorySwappiness >= 0, version === 1, "swappiness, which cgroup version 2 lacks,"],
    [limits.oomKillDisable, version === 1, "an OOM killer that is off, which cgroup version 2 lacks,"],
    [limits.cpuShares > 0 || limits.cpuQuota > 0, has("cpu"), "CPU time"],
    [limits.cpusetCpus !== "" || limits.cpusetMems !== "", has("cpuset"), "CPU sets"],
    [limits.pids > 0, has("pids"), "the number of processes"],
    [limits.blkioWeight > 0, has("blkio", "io"), "block I/O"],
  ];
  const lacking = wanted.filter(([isWanted, canBe]) => isWanted && !canBe).map(([, , what]) => `No limit of ${what} can be set here.`);
  const online = await readFile("/sys/devices/system/cpu/online", "utf8").catch(() => "");
  const cpus = listOf(limits.cpusetCpus).filter((each) => !listOf(online).includes(each));
  return verdict("resource limits", "CGROUP_LIMIT", [...lacking, ...(cpus.length > 0 ? [`This host has no CPU ${cpus.join(", ")}.`] : [])]);
}

/** `0-2,5` as the kernel writes it. */
export function listOf(text: string): number[] {
  return text
    .trim()
    .split(",")
    .filter(Boolean)
    .flatMap((part) => {
      const [from = 0, to = from] = part.split("-").map(Number);
      return Array.from({ length: Math.min(to - from + 1, 8192) }, (_, index) => from + index);
    });
}

/** Rows of /proc/PID/limits by the names of setrlimit. */
const limitRows: Readonly<Record<string, string>> = {
  RLIMIT_AS: "Max address space",
  RLIMIT_CORE: "Max core file size",
  RLIMIT_CPU: "Max cpu time",
  RLIMIT_DATA: "Max data size",
  RLIMIT_FSIZE: "Max file size",
  RLIMIT_LOCKS: "Max file locks",
  RLIMIT_MEMLOCK: "Max locked memory",
  RLIMIT_MSGQUEUE: "Max msgqueue size",
  RLIMIT_NICE: "Max nice priority",
  RLIMIT_NOFILE: "Max open files",
  RLIMIT_NPROC: "Max processes",
  RLIMIT_RSS: "Max resident set",
  RLIMIT_RTPRIO: "Max realtime priority",
  RLIMIT_RTTIME: "Max realtime timeout",
  RLIMIT_SIGPENDING: "Max pending signals",
  RLIMIT_STACK: "Max stack size",
};
const capSysResource = 24n;

/** Nobody gives more than he has, without CAP_SYS_RESOURCE; and nobody more open files than fs.nr_open. */
async function ulimits({ ulimits: wanted }: ContainerSpec): Promise<CheckResult> {
  const [limits, status, openFiles] = await Promise.all([
    readFile("/proc/self/limits", "utf8"),
    readFile("/proc/self/status", "utf8"),
    readFile("/proc/sys/fs/nr_open", "utf8").then(Number),
  ]);
  const capable = ((BigInt(`0x${/^CapEff:\s+(\w+)$/m.exec(status)?.[1] ?? "0"}`) >> capSysResource) & 1n) === 1n;
  const above = wanted.flatMap(({ name: limit, hard }) => {
    const most = Math.min(capable ? Infinity : hardLimit(limits, limit), limit === "RLIMIT_NOFILE" ? openFiles : Infinity);
    return (hard < 0 ? Infinity : hard) > most ? [`${limit} is ${hard < 0 ? "unlimited" : hard} there, at most ${most} here.`] : [];
  });
  return verdict("ulimits", "ULIMIT", above);
}

export function hardLimit(limits: string, limit: string): number {
  const row = limits.split("\n").find((line) => line.startsWith(limitRows[limit] ?? "\0"));
  const value = row?.slice(26).trim().split(/\s+/)[1];
  return value === undefined || value === "unlimited" ? Infinity : Number(value);
}
