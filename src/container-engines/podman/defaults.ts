/** What Podman gives the containers that people make here, and what that costs them when they move. */
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { execa } from "execa";
import { ask } from "../../machine/ask.ts";
import { type IoUring, ioUring } from "../../machine/io-uring.ts";
import { type Check, failed, passed } from "../../preflight/check.ts";
import type { ContainerEngine } from "../engine.ts";
import type { PodmanApi } from "./api.ts";

/** What of `podman info` is read here (Podman 4.3 to 5.x). */
export type Info = {
  host: {
    ociRuntime: { name: string };
    logDriver: string;
    cgroupManager: string;
    cgroupVersion: string;
    security: { seccompEnabled: boolean; seccompProfilePath: string };
  };
};

/** A profile of seccomp, in the form of containers-common. */
export type SeccompProfile = {
  defaultAction: string;
  syscalls?: { names: string[]; action: string; includes?: { caps?: string[] }; excludes?: { caps?: string[] } }[];
};

export type Restarts = Readonly<{
  /** Names of containers that are to run again after a reboot, and that no unit of their own starts. */
  containers: readonly string[];
  /** What systemd says of podman-restart.service; undefined where no systemd runs. */
  service: string | undefined;
}>;

/** What can be moved of all that Podman knows. */
type Movable = Pick<ContainerEngine, "dumpableRuntimes" | "movableLogs">;

const infoMs = 60_000;

/** The lines of `ums doctor` about new containers. A failure is one, too. */
export async function defaultChecks({ api, movable, signal }: { api: PodmanApi; movable: Movable; signal: AbortSignal }): Promise<Check[]> {
  try {
    // By Podman's command line: UMS's own service has been told another runtime.
    const { stdout } = await execa("podman", ["info", "--format", "json"], { stdin: "ignore", timeout: infoMs, cancelSignal: signal });
    const info = JSON.parse(stdout) as Info;
    const { seccompEnabled, seccompProfilePath } = info.host.security;
    const [uring, profile, restarts] = await Promise.all([
      ioUring(),
      seccompEnabled ? readFile(seccompProfilePath, "utf8").then((text) => JSON.parse(text) as SeccompProfile) : undefined,
      restartsOf(api, signal),
    ]);
    return [...settingLines(info, movable), ioUringLine(uring, profile && { path: seccompProfilePath, profile }), restartLine(restarts)];
  } catch (cause) {
    signal.throwIfAborted();
    return [failed("New containers", "PODMAN_FAILED", cause instanceof Error ? cause.message : String(cause))];
  }
}

/** What a container gets that is made without a word about it. */
export function settingLines({ host }: Info, { dumpableRuntimes, movableLogs }: Movable): Check[] {
  const { ociRuntime, logDriver, cgroupManager, cgroupVersion } = host;
  const version = cgroupVersion.replace(/^v/, "");
  return [
    passed(
      "Runtime of new containers",
      ociRuntime.name,
      dumpableRuntimes.includes(ociRuntime.name)
        ? []
        : [`A container made here without \`--runtime\` can't be moved; runtimes that can: ${dumpableRuntimes.join(", ")}.`],
    ),
    passed(
      "Log driver of new containers",
      logDriver,
      movableLogs.includes(logDriver)
        ? []
        : [`A container made here without \`--log-driver\` can't be moved; log drivers that can: ${movableLogs.join(", ")}.`],
    ),
    passed(
      "cgroup manager",
      `${cgroupManager}, cgroup version ${version}`,
      version === "1" ? ["Containers move only to and from hosts that have cgroup version 1, too."] : [],
    ),
  ];
}

/** @param seccomp the profile of containers that have been given no other; undefined where they have none */
export function ioUringLine(uring: IoUring, seccomp: Readonly<{ path: string; profile: SeccompProfile }> | undefined): Check {
  const name = "io_uring";
  if (uring === "absent") return passed(name, "the kernel has none");
  if (uring === "off") return passed(name, "the kernel opens none");
  if (seccomp && !letsThrough(seccomp.profile, "io_uring_setup"))
    return passed(name, `kept from containers by ${seccomp.path}, but for those with \`seccomp=unconfined\` or \`--privileged\``);
  if (uring === "privileged") return passed(name, "the kernel opens one for CAP_SYS_ADMIN alone");
  return passed(name, "open to containers", [
    "A service that opens one can't be moved (IO_URING): `sysctl kernel.io_uring_disabled=2` keeps all from it that are started after.",
  ]);
}

/** Whether a profile lets a system call through for a container without added capabilities. */
export function letsThrough({ defaultAction, syscalls = [] }: SeccompProfile, call: string): boolean {
  const allows = (action: string) => ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"].includes(action);
  const rules = syscalls.filter(({ names, includes }) => names.includes(call) && (includes?.caps ?? []).length === 0);
  return rules.length === 0 ? allows(defaultAction) : rules.some(({ action }) => allows(action));
}

async function restartsOf(api: PodmanApi, signal: AbortSignal): Promise<Restarts> {
  const filters = encodeURIComponent(JSON.stringify({ "restart-policy": ["always", "unless-stopped"] }));
  const [listed, enabled] = await Promise.all([
    api.call({ method: "GET", path: `/containers/json?all=true&filters=${filters}`, signal }),
    existsSync("/run/systemd/system") ? ask("systemctl", ["is-enabled", "podman-restart.service"], { signal }) : undefined,
  ]);
  const containers = (listed as { Names: string[]; Labels: Record<string, string> | null }[])
    .filter(({ Labels }) => Labels?.PODMAN_SYSTEMD_UNIT === undefined)
    .map(({ Names }) => Names[0] ?? "")
    .toSorted();
  return { containers, service: enabled?.output };
}

const mostNamed = 8;

/** Podman has no daemon: after a reboot it is a unit that starts what has a restart policy. */
export function restartLine({ containers, service }: Restarts): Check {
  const found = service === undefined ? "this host runs no systemd" : `podman-restart.service is ${service}`;
  const isOn = service === "enabled" || service === "enabled-runtime" || service === "static";
  if (isOn || containers.length === 0) return passed("Restart after a reboot", found);
  const more = containers.length > mostNamed ? `, and ${containers.length - mostNamed} more` : "";
  const cure = service === undefined ? "have whatever starts services here start them" : "`systemctl enable podman-restart`";
  return passed("Restart after a reboot", found, [
    `Nothing starts ${containers.slice(0, mostNamed).join(", ")}${more} after a reboot, in spite of the restart policy: ${cure}.`,
  ]);
}
