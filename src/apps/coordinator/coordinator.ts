import type { Forward, Migration, MigrationRequest, PlanReport, Service } from "./schema.ts";
import type { Check } from "../../preflight/check.ts";

/** What a site can do for the people on it. The HTTP API, and through it the CLI, show just this. */
export type Coordinator = Readonly<{
  services(signal: AbortSignal): Promise<Service[]>;
  plan(request: MigrationRequest, signal: AbortSignal): Promise<PlanReport>;
  /** Starts a migration (or queues it) and resolves once it is journalled. */
  migrate(request: MigrationRequest): Promise<Migration>;
  migrations(): Migration[];
  /** @throws UmsError MIGRATION_NOT_FOUND */
  migration(id: string): Migration;
  /** The migration now, then at each change, until it has ended. */
  watch(id: string, signal: AbortSignal): AsyncIterable<Migration>;
  /** Yields at once, and whenever a migration may have changed. */
  changes(signal: AbortSignal): AsyncIterable<void>;
  /** @throws UmsError TOO_LATE after the commit */
  cancel(id: string): Promise<Migration>;
  /** A person's word that the destination of a stuck migration never comes back. @throws UmsError NOT_STUCK */
  resolve(id: string): Promise<Migration>;
  forwards(): Forward[];
  /** Ends the forward that a finished migration left. */
  release(id: string): Promise<void>;
  /** @param options.containers a line for each container that runs here, too */
  doctor(options: { containers: boolean }, signal: AbortSignal): Promise<Check[]>;
}>;
