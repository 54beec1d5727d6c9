/** `Migration` objects as kubectl shows them, and the steps at which a test makes them wait. */
import { setTimeout as sleep } from "node:timers/promises";
import { type MigrationObject, migrations } from "../src/platforms/kubernetes/migration.ts";
import type { ClusterSite } from "./cluster-sites.ts";

const annotation = "ums.dev/breakpoint";

/** @param options.breakpoint as src/breakpoint.ts has it */
export async function createMigration(
  from: ClusterSite,
  { name, pod, to, breakpoint }: { name: string; pod: string; to: Readonly<{ name: string }>; breakpoint?: string },
): Promise<void> {
  const annotations = breakpoint === undefined ? {} : { [annotation]: breakpoint };
  await from.apply({ apiVersion: "ums.dev/v1", kind: "Migration", metadata: { name, annotations }, spec: { pod, destination: to.name } });
}

export async function migrationIn({ cluster }: ClusterSite, name: string): Promise<MigrationObject> {
  const found = await cluster.api.get(migrations, name);
  if (!found) throw new Error(`${cluster.name} has no migration ${name}.`);
  return found;
}

/** Resolves when the migration waits there. */
export async function atBreakpoint(
  site: ClusterSite,
  name: string,
  { step, moment, timeoutMs = 60_000 }: { step: string; moment: string; timeoutMs?: number },
): Promise<void> {
  for (const until = Date.now() + timeoutMs; Date.now() < until; await sleep(50)) {
    const { status } = await migrationIn(site, name);
    if (status?.waiting === `at the breakpoint ${step} ${moment}`) return;
    if (status?.endedAt !== undefined) throw new Error(`It ended before it came to ${step}: ${status.message}`);
  }
  throw new Error(`It did not come to ${step} within ${timeoutMs} ms.`);
}

/** @param to undefined: it goes on */
export async function setBreakpoint({ cluster }: ClusterSite, name: string, to: string | undefined): Promise<void> {
  const change = to === undefined ? `${annotation}-` : `${annotation}=${to}`;
  await cluster.kubectl(["annotate", "--overwrite", "migration", name, change]);
}
