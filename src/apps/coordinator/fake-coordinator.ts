import { EventEmitter, on } from "node:events";
import { UmsError } from "../../errors.ts";
import { createChanges } from "./changes.ts";
import type { Coordinator } from "./coordinator.ts";
import type { Migration } from "./schema.ts";

/** A coordinator for tests: remembers what it was asked, and its migrations do what the test says. */
export function createFakeCoordinator(overrides: Partial<Coordinator> = {}) {
  const calls: unknown[][] = [];
  const migrations = new Map<string, Migration>();
  const changes = new EventEmitter();
  const any = createChanges();

  const find = (id: string) => {
    const found = migrations.get(id);
    if (!found) throw new UmsError("MIGRATION_NOT_FOUND", `There is no migration ${id}.`);
    return found;
  };
  /** Puts a migration in, or changes it, and tells those who watch. */
  const put = (change: Partial<Migration> & { id: string }): Migration => {
    const migration = { ...newMigration(change.id), ...migrations.get(change.id), ...change };
    migrations.set(change.id, migration);
    changes.emit(change.id, migration);
    any.tell();
    return migration;
  };
  const end = (id: string, phase: "Succeeded" | "RolledBack" | "Failed", more: Partial<Migration> = {}) =>
    put({ ...more, id, phase, endedAt: new Date().toISOString() });

  const coordinator: Coordinator = {
    async services() {
      calls.push(["services"]);
      return [
        { name: "redis", namespace: "", migratable: true, status: "running", image: "docker.io/library/redis:8", ports: ["6379/tcp"] },
      ];
    },
    async plan(request) {
      calls.push(["plan", request]);
      const { name, to } = request;
      return {
        service: name,
        source: "alpha",
        destination: to,
        checks: [{ site: to, name: "room", ok: true, verdict: "ok" }],
        refusals: [],
        notes: [{ site: "alpha", detail: "Clients of 127.0.0.1 are not led." }],
        memoryBytes: 1,
        fileBytes: 2,
        imageBytes: 3,
      };
    },
    async migrate(request) {
      calls.push(["migrate", request]);
      const { name, namespace, to } = request;
      return put({ id: "m0000001", service: name, destination: to, ...(namespace === undefined ? {} : { namespace }) });
    },
    migrations: () => [...migrations.values()],
    migration: find,
    async *watch(id, signal) {
      const following = on(changes, id, { signal });
      let current = find(id);
      yield current;
      if (current.endedAt !== undefined) return;
      for await (const [next] of following) {
        current = next as Migration;
        yield current;
        if (current.endedAt !== undefined) return;
      }
    },
    changes: any.follow,
    async cancel(id) {
      calls.push(["cancel", id]);
      return end(find(id).id, "RolledBack", {
        error: { code: "CANCELLED", message: "It was cancelled.", cure: "Start it again when wanted." },
      });
    },
    async resolve(id) {
      calls.push(["resolve", id]);
      return find(id);
    },
    forwards: () => [{ migration: "m0000001", service: "redis", ports: ["6379/tcp"], to: "beta" }],
    async release(id) {
      calls.push(["release", id]);
      find(id);
    },
    async doctor({ containers }) {
      calls.push(["doctor", ...(containers ? ["containers"] : [])]);
      return [{ name: "criu", ok: true, found: "4.2.1" }];
    },
    ...overrides,
  };
  return { coordinator, calls, put, end, watchers: (id: string) => changes.listenerCount(id) };
}

function newMigration(id: string): Migration {
  return {
    id,
    role: "source",
    service: "redis",
    source: "alpha",
    destination: "beta",
    phase: "Pending",
    startedAt: "2026-11-22T12:00:00.000Z",
    memoryBytes: 268_435_456,
    bytesSent: 0,
    phases: {},
    steps: {},
  };
}
