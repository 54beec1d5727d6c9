/** The lines of `ums doctor` on a host: what a plan would refuse by, and what this machine costs a service that moves. */
import type { ContainerEngine } from "../container-engines/engine.ts";
import { ask } from "../machine/ask.ts";
import { isAtLeast } from "../machine/version.ts";
import { type Check, passed } from "./check.ts";
import { criuVersion, runcVersion, type SiteSettings, siteChecks } from "./site.ts";

/** Every line about this host. What a check makes to try something is gone when this resolves. */
export async function doctorChecks(host: { settings: SiteSettings; engine: ContainerEngine; signal: AbortSignal }): Promise<Check[]> {
  const { settings, engine, signal } = host;
  const lines = await Promise.all([
    siteChecks(host),
    engine.defaultChecks(signal),
    runcVersion(settings.runcPath).then(({ version }) => costLine(execCost, version)),
    criuVersion(settings.criuPath).then(({ version }) => costLine(pipeCost, version)),
    trackingLine(settings.criuPath, signal),
  ]);
  signal.throwIfAborted();
  return lines.flat();
}

/** What an older version of a program costs a service that has moved: the version that mends it, and the cost in one sentence. */
type Cost = Readonly<{ line: string; program: string; mendedIn: string; cost: string }>;

// opencontainers/runc pull request 4714.
export const execCost: Cost = {
  line: "exec in a service that has moved",
  program: "runc",
  mendedIn: "1.2",
  cost: "In a service that has moved here, `podman exec` shows other clocks than the service's (CLOCK_MONOTONIC, uptime), and a process that it leaves running keeps the service from moving on until it ends",
};
// checkpoint-restore/criu pull request 2985.
export const pipeCost: Cost = {
  line: "Owners of pipes",
  program: "CRIU",
  mendedIn: "4.3",
  cost: "Pipes of a service that has moved here are root's: a process of another user can't open one again by its path (`/proc/self/fd/3`, `/dev/fd/3`)",
};

/** @param version none where it can't be told: that has a line of its own, which refuses */
export function costLine({ line, program, mendedIn, cost }: Cost, version: string | undefined): Check[] {
  if (version === undefined) return [];
  const notes = isAtLeast(version, mendedIn) ? [] : [`${cost}. ${program} ${mendedIn} mends it.`];
  return [passed(line, `${program} ${version}`, notes)];
}

const features = { mem_dirty_track: "soft-dirty", pagemap_scan: "PAGEMAP_SCAN" };

/** What memory can be followed by while a service writes to it. CRIU tries it: a kernel's version says nothing of how it was built. */
async function trackingLine(criu: string, signal: AbortSignal): Promise<Check> {
  const words = await Promise.all(
    Object.entries(features).map(async ([feature, name]) => {
      const { answered, succeeded } = await ask(criu, ["check", "--feature", feature], { signal });
      return `${name}: ${succeeded ? "yes" : answered ? "no" : "not known"}`;
    }),
  );
  return passed("Tracking of changed memory", words.join(", "));
}
