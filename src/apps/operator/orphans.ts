/** Copies at destinations that a person said were gone. */
import type { Logger } from "pino";
import { UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import { destinationIsGone, migrationIdOf, type MigrationObject, migrations } from "../../platforms/kubernetes/migration.ts";
import { tell } from "../../platforms/kubernetes/story.ts";
import type { Sites } from "./sites.ts";

type Parts = Readonly<{
  cluster: Cluster;
  sites: Sites;
  limits: Readonly<{ requestMs: number }>;
  known(): readonly MigrationObject[];
  log: Logger;
  signal: AbortSignal;
}>;

/** A destination that a person said was gone, and which answers after all, may still hold a copy: frozen out, but there. */
export async function collectOrphans(parts: Parts): Promise<void> {
  const { cluster, sites, limits, log, signal } = parts;
  for (const object of parts.known()) {
    const { metadata, spec, status } = object;
    const said = metadata.annotations?.[destinationIsGone] !== undefined && status?.phase === "RolledBack";
    if (!said || status.facts?.["answered"] === true) continue;
    const id = migrationIdOf(object);
    const request = { method: "DELETE", path: `/peer/migrations/${id}`, timeoutMs: limits.requestMs, signal };
    try {
      await sites.client(sites.find(spec.destination).name).request(request);
    } catch (cause) {
      if (cause instanceof UmsError && cause.code === "TOO_LATE") await tellOfTwo(parts, object);
      else log.debug({ migration: id, cause }, "the destination is still gone");
      continue;
    }
    const patch = { status: { facts: { answered: true } } };
    await cluster.patch(migrations, metadata.name ?? "", patch, { namespace: metadata.namespace, subresource: "status" });
    log.info({ migration: id }, "the destination that was said to be gone has destroyed its copy");
  }
}

/** Whoever said that the destination was gone was wrong: it had committed. */
async function tellOfTwo({ cluster, log, signal }: Parts, object: MigrationObject): Promise<void> {
  const { namespace = "default", name = "" } = object.metadata;
  const message = "The destination that was said to be gone had committed: there are two copies. Delete one of them.";
  log.error({ migration: name }, message);
  const error = { code: "TOO_LATE", message, cure: "Decide which copy is to live, and delete the other pod." };
  const patch = { status: { message, error, facts: { answered: true } } };
  await cluster.patch(migrations, name, patch, { namespace, subresource: "status", signal });
  await tell(cluster, object, { reason: "error", message });
}
