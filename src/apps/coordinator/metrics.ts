import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Migration } from "./schema.ts";

/** The figures of a site, in Prometheus's text form. */
export type Metrics = Readonly<{ contentType: string; text(): Promise<string> }>;

/**
 * Figures taken from the journal's migrations when they are asked for, so that nobody has to remember to
 * report one, and a restarted site counts on where it was.
 */
export function createMetrics(migrations: () => Migration[]): Metrics {
  const registry = new Registry();
  const registers = [registry];
  const labelNames = ["role", "outcome"] as const;
  const ended = new Counter({ name: "ums_migrations_total", help: "Migrations that have ended", labelNames, registers });
  const seconds = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300];
  const held = new Histogram({
    name: "ums_migration_held_seconds",
    help: "How long no client was served, as the source saw it",
    buckets: seconds,
    registers,
  });
  const total = new Histogram({
    name: "ums_migration_total_seconds",
    help: "Duration of successful migrations",
    buckets: seconds,
    registers,
  });
  const bytes = new Counter({ name: "ums_migration_sent_bytes_total", help: "Bytes that ended migrations sent from this site", registers });
  const counted = new Set<string>();

  new Gauge({
    name: "ums_migrations_running",
    help: "Migrations that have not ended",
    registers,
    collect() {
      const all = migrations();
      this.set(all.filter((migration) => migration.endedAt === undefined).length);
      all.filter((migration) => migration.endedAt !== undefined && !counted.has(migration.id)).forEach(count);
    },
  });
  new Gauge({
    name: "process_resident_memory_bytes",
    help: "Resident memory of `ums serve`",
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });

  function count(migration: Migration): void {
    counted.add(migration.id);
    ended.inc({ role: migration.role, outcome: migration.phase });
    if (migration.role !== "source") return;
    bytes.inc(migration.bytesSent);
    if (migration.phase !== "Succeeded") return;
    if (migration.heldMs !== undefined) held.observe(migration.heldMs / 1000);
    if (migration.totalMs !== undefined) total.observe(migration.totalMs / 1000);
  }

  return {
    contentType: registry.contentType,
    async text() {
      // The gauge collects into the other figures, so they are read after it, whatever order the registry has.
      await registry.getSingleMetric("ums_migrations_running")?.get();
      return await registry.metrics();
    },
  };
}
