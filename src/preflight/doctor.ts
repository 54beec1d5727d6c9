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
    runcVersion(settings.runcPath).then(({ version }) => execLine(version)),
    criuVersion(settings.criuPath).then(({ version }) => pipeLine(version)),
    trackingLine(settings.criuPath, signal),
  ]);
  signal.throwIfAborted();
  return lines.flat();
}

/** A version that can't be told has a line of its own, which refuses. */
export function execLine(runc: string | undefined): Check[] {
  if (runc === undefined) return [];
  // opencontainers/runc pull request 4714.
  const notes = isAtLeast(runc, "1.2")
    ? []
    : [
        "In a service that has moved here, `podman exec` shows other clocks than the service's (CLOCK_MONOTONIC, uptime), and a process that it leaves running keeps the service from moving on until it ends: runc 1.2 mends it.",
      ];
  return [passed("exec in a service that has moved", `runc ${runc}`, notes)];
}

/** As of {@link execLine}. */
export function pipeLine(criu: string | undefined): Check[] {
  if (criu === undefined) return [];
  // checkpoint-restore/criu pull request 2985.
  const notes = isAtLeast(criu, "4.3")
    ? []
    : [
        "Pipes of a service that has moved here are root's: a process of another user can't open one again by its path (`/proc/self/fd/3`, `/dev/fd/3`). CRIU 4.3 mends it.",
      ];
  return [passed("Owners of pipes", `CRIU ${criu}`, notes)];
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
