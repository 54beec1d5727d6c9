/** What this host must have for Podman to take part in any migration, and what a twin needs of Podman here. */
import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { UmsError } from "../../errors.ts";
import { ask } from "../../machine/ask.ts";
import { isAtLeast } from "../../machine/version.ts";
import { type Check, checked, failed, passed, verdict } from "../../preflight/check.ts";
import { oncePassed } from "../../preflight/once-passed.ts";
import type { ContainerSpec } from "../../protocol/container-spec.ts";
import type { CheckResult } from "../../protocol/measures.ts";
import type { PodmanApi } from "./api.ts";
import { readEngineSettings } from "./containers-conf.ts";
import { shimRuntime } from "./runtimes.ts";

const oldestPodman = "4.3";

/** Where the parts lie that UMS has beside Podman. */
export type PodmanPlaces = Readonly<{
  socketPath: string;
  /** The shim. */
  shimPath: string;
  /** Marks of held containers, for the hook. */
  marksDirectory: string;
}>;

type Parts = PodmanPlaces & Readonly<{ api: PodmanApi; signal: AbortSignal }>;

/** The lines of `ums doctor` that are Podman's. */
export async function podmanChecks(parts: Parts): Promise<Check[]> {
  return (await Promise.all([podman(parts), shim(parts), hook(parts)])).flat();
}

/** What a container of this spec needs of Podman on this host. */
export async function twinChecks({ health }: ContainerSpec): Promise<CheckResult[]> {
  // Podman runs a health check by a timer of systemd, and a start fails where there is none.
  const needed = health !== undefined && health.test[0] !== "NONE" && health.intervalNs > 0;
  const lacking = needed && !existsSync("/run/systemd/system");
  return [verdict("health check", "HEALTHCHECK_TIMER", lacking ? ["This host does not run systemd."] : [])];
}

type PodmanInfo = {
  host: { security: { rootless: boolean }; ociRuntime: { name: string } };
  store: { graphDriverName: string };
};

async function podman({ api, socketPath, signal }: Parts): Promise<Check[]> {
  try {
    const version = await api.version(signal);
    return [
      checked("Podman", isAtLeast(version, oldestPodman), "PODMAN_TOO_OLD", version),
      ...(await oncePassed(`podman ${socketPath}`, () => settings(api, signal))),
    ];
  } catch (cause) {
    signal.throwIfAborted();
    return [
      failed("Podman", cause instanceof UmsError ? cause.code : "PODMAN_FAILED", cause instanceof Error ? cause.message : String(cause)),
    ];
  }
}

async function settings(api: PodmanApi, signal: AbortSignal): Promise<Check[]> {
  const { host, store } = (await api.call({ method: "GET", path: "/info", signal })) as PodmanInfo;
  const { ociRuntime, security } = host;
  return [
    checked("Podman runs as root", !security.rootless, "PODMAN_ROOTLESS", security.rootless ? "rootless" : "root"),
    // Podman 4.3 takes a new container's runtime from its service, whatever its API is told.
    checked("Podman's service uses UMS's OCI runtime", ociRuntime.name === shimRuntime, "SHIM_MISSING", ociRuntime.name),
    checked("Podman's storage driver", store.graphDriverName === "overlay", "STORAGE_DRIVER", store.graphDriverName),
  ];
}

async function shim({ shimPath }: Parts): Promise<Check[]> {
  // It hands `--version` on to runc.
  const { ran, succeeded, output } = await ask(shimPath, ["--version"]);
  const works = succeeded && output.startsWith("runc version");
  const { runtimes } = await readEngineSettings();
  const registered = runtimes[shimRuntime]?.find((file) => file === shimPath);
  return [
    checked("UMS's OCI runtime", works, "SHIM_MISSING", works ? shimPath : ran ? output : `${shimPath} can't be started`),
    checked(
      "Podman knows UMS's OCI runtime",
      registered !== undefined,
      "SHIM_MISSING",
      registered ?? `containers.conf has no runtime “${shimRuntime}” with this path`,
    ),
  ];
}

type Hook = { hook?: { path?: string; args?: string[] }; when?: { always?: boolean }; stages?: string[] };
/** Stages of which a failure keeps the container's own process from running. */
const earlyStages = new Set(["precreate", "prestart", "createRuntime", "createContainer", "startContainer"]);

/** Podman must call the hook with the directory of our marks, and the hook must do what it is there for. */
async function hook({ marksDirectory: marks }: Parts): Promise<Check> {
  const name = "Held containers can't be started";
  const { hooksDirectories } = await readEngineSettings();
  for (const directory of hooksDirectories) {
    for (const file of (await readdir(directory).catch(() => [])).filter((entry) => entry.endsWith(".json"))) {
      const found = await readFile(path.join(directory, file), "utf8").then(
        (text) => JSON.parse(text) as Hook,
        () => undefined,
      );
      const { path: program, args = [] } = found?.hook ?? {};
      if (program === undefined || !args.includes(marks)) continue;
      const where = path.join(directory, file);
      if (found?.when?.always !== true || !(found.stages ?? []).some((stage) => earlyStages.has(stage)))
        return failed(name, "HOOK_MISSING", `${where} is not for every container's creation`);
      // /proc/version stands for a mark.
      const tried = args.slice(1).map((argument) => (argument === marks ? "/proc" : argument));
      const [held, free] = await Promise.all(
        ["version", "ums-holds-no-such-container"].map((id) => ask(program, tried, { input: JSON.stringify({ ociVersion: "1.0.2", id }) })),
      );
      return held?.ran && !held.succeeded && free?.succeeded
        ? passed(name, where)
        : failed(name, "HOOK_MISSING", `${program} does not answer as it should`);
    }
  }
  return failed(name, "HOOK_MISSING", `no hook for ${marks} in ${hooksDirectories.join(", ")}`);
}
