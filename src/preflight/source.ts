/** All that this host alone has to say about a container's leaving. */
import type { Container, ContainerEngine } from "../container-engines/engine.ts";
import { codeFrom, codeOf, UmsError } from "../errors.ts";
import type { ContainerNeed } from "../protocol/container.ts";
import type { CheckResult } from "../protocol/measures.ts";
import { type Check, failed, noted, passed } from "./check.ts";
import { dumpRoom } from "./machine.ts";
import { describeNeed } from "./need.ts";
import { clientNotes } from "./notes.ts";
import { serviceChecks } from "./service.ts";
import { type SiteSettings, siteChecks } from "./site.ts";

type Host = Readonly<{ settings: SiteSettings; engine: ContainerEngine; signal: AbortSignal }>;

const resultOf = ({ name, ok, code, found, notes }: Check): CheckResult => ({
  name,
  ok,
  ...(code === undefined ? {} : { code }),
  detail: found,
  ...(notes === undefined ? {} : { notes }),
});

/** @param bindMounts as of {@link serviceChecks} @returns also what a destination is asked for; a container that does not run has no need */
export async function sourceChecks(
  container: Container,
  { bindMounts, ...host }: Host & Readonly<{ bindMounts: readonly string[] }>,
): Promise<{ checks: CheckResult[]; need: ContainerNeed | undefined }> {
  return await leavingChecks(container, { site: await siteChecks(host), bindMounts, ...host });
}

async function leavingChecks(
  container: Container,
  { site, bindMounts, settings, engine, signal }: Host & Readonly<{ site: readonly Check[]; bindMounts: readonly string[] }>,
): Promise<{ checks: CheckResult[]; need: ContainerNeed | undefined }> {
  const checks = [
    ...site.map(resultOf),
    ...(await serviceChecks({ engine, container, bindMounts, signal })),
    noted("clients", clientNotes(container.spec.ports)),
  ];
  if (container.state !== "running") return { checks, need: undefined };
  const need = await describeNeed({ engine, container, signal });
  return { checks: [...checks, await dumpRoom(settings.imageDirectories, need)], need };
}

/** How many containers are looked at together. */
const together = 4;

/**
 * A line for each container that runs here: that it could move, if a destination took it, or the first reason why not.
 * @param host.migrating the migration that has a container of this name, if one has
 */
export async function containerLines(host: Host & Readonly<{ migrating: (name: string) => string | undefined }>): Promise<Check[]> {
  const [site, all] = await Promise.all([siteChecks(host), host.engine.list(host.signal)]);
  const waiting = all.filter(({ state }) => state === "running" || state === "paused").toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const lines: Check[] = [];
  while (waiting.length > 0)
    lines.push(...(await Promise.all(waiting.splice(0, together).map(({ id, name }) => line(id, name, { ...host, site })))).flat());
  return lines;
}

/** @returns none for one that is gone meanwhile */
async function line(
  id: string,
  name: string,
  { migrating, ...host }: Parameters<typeof containerLines>[0] & Readonly<{ site: readonly Check[] }>,
): Promise<Check[]> {
  const title = `container ${name}`;
  try {
    const migration = migrating(name);
    if (migration !== undefined) throw new UmsError("ALREADY_MIGRATING", `Migration ${migration} has it.`);
    const container = await host.engine.find(id, host.signal);
    if (!container) return [];
    const { checks } = await leavingChecks(container, { ...host, bindMounts: [] });
    const refused = checks.find(({ ok }) => !ok);
    if (refused) return [failed(title, codeFrom(refused.code), refused.detail ?? refused.name)];
    return [
      passed(
        title,
        "could move, if the other site takes it",
        checks.flatMap(({ notes = [] }) => notes),
      ),
    ];
  } catch (cause) {
    host.signal.throwIfAborted();
    const error = cause instanceof Error ? cause : new Error(String(cause));
    return [failed(title, codeOf(error), error.message)];
  }
}
