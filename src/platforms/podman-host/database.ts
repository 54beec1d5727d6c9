import { chmodSync, closeSync, existsSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import type { Phase } from "../../engine/progress.ts";
import type { Report } from "../../engine/report.ts";
import { type ErrorCode, UmsError } from "../../errors.ts";

/** A migration as this host remembers it. */
export type MigrationRecord = Readonly<{
  id: string;
  /** Which half of the migration this host does. */
  role: "source" | "destination";
  service: string;
  /** The other site's name, as paired. */
  peer: string;
  /** What was asked for, as it came in. */
  request: unknown;
  /** ISO 8601. */
  createdAt: string;
  /** ISO 8601; undefined while it has not ended. */
  endedAt: string | undefined;
  phase: Phase;
  memoryBytes: number;
  bytesSent: number;
  report: Report | undefined;
  /** What a person is told of its failure; while none has been set, why the journal says that it is being undone. */
  error: Readonly<{ code: ErrorCode; detail: string }> | undefined;
}>;

export type NewMigration = Pick<MigrationRecord, "id" | "role" | "service" | "peer" | "request">;
export type MigrationChanges = Partial<Pick<MigrationRecord, "phase" | "memoryBytes" | "bytesSent" | "report" | "error">>;

/** A forward that is kept for a service which has gone. */
export type ForwardRecord = Readonly<{ migration: string; service: string; ports: string[]; to: string }>;

/** Another migration of the same service has not ended. */
export class AlreadyMigrating extends UmsError {
  /** The id of that other migration. */
  readonly migration: string;
  constructor(service: string, migration: string) {
    super("ALREADY_MIGRATING", `${service} is being moved by migration ${migration}`);
    this.migration = migration;
  }
}

/** What one host remembers of its migrations, in one SQLite file. Every call is synchronous. */
export type Database = Readonly<{
  /** Durable when it returns. @throws AlreadyMigrating */
  create(migration: NewMigration): MigrationRecord;
  get(id: string): MigrationRecord | undefined;
  /** All of them, newest first. */
  list(): MigrationRecord[];
  /** Those that have not ended, oldest first. */
  unfinished(): MigrationRecord[];
  /**
   * Outlives this process at once, and a power loss with the next durable write: it costs no fsync, so that a
   * phase can be noted while the service is frozen. @throws UmsError MIGRATION_NOT_FOUND
   */
  update(id: string, changes: MigrationChanges): void;
  /** Durable when it returns; the service may be migrated again. @throws UmsError MIGRATION_NOT_FOUND */
  end(id: string, changes: MigrationChanges): MigrationRecord;
  /** Forgets a migration and all that belongs to it. */
  remove(id: string): void;
  /** Forgets the migrations that ended before this moment, but for those that lead clients. @param before ISO 8601 */
  prune(before: string): void;
  /** Forgets what came from this peer and was never committed, but the newest so many: a peer can make them without an end. */
  pruneRefused(peer: string, keep: number): void;
  /** Leaves no byte in the files of what was changed or forgotten before. Some milliseconds: not while a service is frozen. */
  scrub(): void;

  /** When the start of a step was journalled, in milliseconds since the epoch; undefined where it was not, or the step is undone. */
  stepStartedAt(migration: string, step: string): number | undefined;

  /** A small thing that an adapter has to know again after a crash. */
  fact<Value>(migration: string, key: string): Value | undefined;
  facts(migration: string): Readonly<Record<string, unknown>>;
  /** Durable when it returns: one fsync. `undefined` forgets the fact. @throws UmsError MIGRATION_NOT_FOUND */
  setFact(migration: string, key: string, value: unknown): void;

  forwards(): ForwardRecord[];
  /** Durable when it returns. @throws UmsError MIGRATION_NOT_FOUND */
  addForward(forward: ForwardRecord): void;
  removeForward(migration: string): void;

  close(): void;
  /** For the journal beside this file. */
  readonly connection: Connection;
}>;

/** The open file, and its two kinds of write. */
export type Connection = Readonly<{
  sqlite: DatabaseSync;
  /** One transaction; with `durable`, one fsync before this returns. */
  write<Result>(change: () => Result, options: { durable: boolean }): Result;
}>;

const busyMs = 5_000;

/** Each entry takes the schema from the version that is its index to the next one. */
const schemaChanges = [
  `CREATE TABLE migrations (
     id TEXT PRIMARY KEY,
     role TEXT NOT NULL CHECK (role IN ('source', 'destination')),
     service TEXT NOT NULL,
     peer TEXT NOT NULL,
     request TEXT NOT NULL,
     created_at TEXT NOT NULL,
     ended_at TEXT,
     phase TEXT NOT NULL DEFAULT 'Pending',
     memory_bytes INTEGER NOT NULL DEFAULT 0,
     bytes_sent INTEGER NOT NULL DEFAULT 0,
     report TEXT,
     error_code TEXT,
     error_detail TEXT,
     -- Written by the journal alone: once set, the migration is being undone.
     failure_code TEXT,
     failure_detail TEXT
   ) STRICT;
   CREATE UNIQUE INDEX one_migration_a_service ON migrations (service) WHERE ended_at IS NULL AND role = 'source';
   CREATE TABLE steps (
     migration TEXT NOT NULL REFERENCES migrations (id) ON DELETE CASCADE,
     step TEXT NOT NULL,
     started_at TEXT,
     done_at TEXT,
     undone_at TEXT,
     PRIMARY KEY (migration, step)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE facts (
     migration TEXT NOT NULL REFERENCES migrations (id) ON DELETE CASCADE,
     key TEXT NOT NULL,
     value TEXT NOT NULL,
     PRIMARY KEY (migration, key)
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE forwards (
     migration TEXT PRIMARY KEY REFERENCES migrations (id) ON DELETE CASCADE,
     service TEXT NOT NULL,
     ports TEXT NOT NULL,
     destination TEXT NOT NULL
   ) STRICT, WITHOUT ROWID;`,
];

/**
 * Opens the file at `path`, and makes it and its directory where they lack.
 * @throws Error if a newer release has written the file
 */
export function openDatabase(path: string): Database {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  // It holds environments. The files that SQLite makes beside it get its mode.
  closeSync(openSync(path, "a", 0o600));
  for (const file of [path, `${path}-wal`, `${path}-shm`]) if (existsSync(file)) chmodSync(file, 0o600);
  const sqlite = new DatabaseSync(path, { timeout: busyMs, enableForeignKeyConstraints: true });
  try {
    sqlite.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON");
    updateSchema(sqlite, path);
  } catch (error) {
    sqlite.close();
    throw error;
  }
  const connection: Connection = { sqlite, write: (change, { durable }) => write(sqlite, change, durable) };

  const one = (sql: string, ...values: SQLInputValue[]) => sqlite.prepare(sql).get(...values);
  const all = (sql: string, ...values: SQLInputValue[]) => sqlite.prepare(sql).all(...values);
  const run = (sql: string, ...values: SQLInputValue[]) => sqlite.prepare(sql).run(...values);

  const get = (id: string) => {
    const row = one("SELECT * FROM migrations WHERE id = ?", id);
    return row && toRecord(row);
  };
  const notFound = (id: string) => new UmsError("MIGRATION_NOT_FOUND", `no migration ${id}`);
  const mustGet = (id: string) => {
    const record = get(id);
    if (!record) throw notFound(id);
    return record;
  };
  const mustExist = (id: string) => {
    if (!one("SELECT 1 FROM migrations WHERE id = ?", id)) throw notFound(id);
  };
  const change = (id: string, { phase, memoryBytes, bytesSent, report, error }: MigrationChanges, endedAt: string | null) => {
    mustExist(id);
    run(
      `UPDATE migrations SET phase = coalesce(?, phase), memory_bytes = coalesce(?, memory_bytes),
         bytes_sent = coalesce(?, bytes_sent), report = coalesce(?, report), error_code = coalesce(?, error_code),
         error_detail = coalesce(?, error_detail), ended_at = coalesce(ended_at, ?) WHERE id = ?`,
      phase ?? null,
      memoryBytes ?? null,
      bytesSent ?? null,
      report ? JSON.stringify(report) : null,
      error?.code ?? null,
      error?.detail ?? null,
      endedAt,
      id,
    );
  };

  return {
    connection,
    create({ id, role, service, peer, request }) {
      connection.write(
        () => {
          const other = one("SELECT id FROM migrations WHERE service = ? AND ended_at IS NULL AND role = 'source'", service);
          if (role === "source" && other) throw new AlreadyMigrating(service, other["id"] as string);
          run(
            "INSERT INTO migrations (id, role, service, peer, request, created_at) VALUES (?, ?, ?, ?, ?, ?)",
            id,
            role,
            service,
            peer,
            JSON.stringify(request ?? null),
            now(),
          );
        },
        { durable: true },
      );
      // Here, so that SQLite doesn't do it while the service is frozen: one migration writes less than what triggers it.
      sqlite.exec("PRAGMA wal_checkpoint(PASSIVE)");
      return mustGet(id);
    },
    get,
    list: () => all("SELECT * FROM migrations ORDER BY created_at DESC, rowid DESC").map(toRecord),
    unfinished: () => all("SELECT * FROM migrations WHERE ended_at IS NULL ORDER BY created_at, rowid").map(toRecord),
    update: (id, changes) => connection.write(() => change(id, changes, null), { durable: false }),
    end(id, changes) {
      connection.write(() => change(id, changes, now()), { durable: true });
      return mustGet(id);
    },
    prune: (before) =>
      connection.write(() => void run("DELETE FROM migrations WHERE ended_at < ? AND id NOT IN (SELECT migration FROM forwards)", before), {
        durable: true,
      }),
    pruneRefused: (peer, keep) =>
      connection.write(
        () =>
          void run(
            `DELETE FROM migrations WHERE rowid IN (SELECT rowid FROM migrations
               WHERE role = 'destination' AND peer = ? AND ended_at IS NOT NULL AND phase <> 'Succeeded' ORDER BY rowid DESC LIMIT -1 OFFSET ?)`,
            peer,
            keep,
          ),
        { durable: false },
      ),
    // Freed pages are overwritten (secure_delete); until it is emptied, the write-ahead log has the old ones. Whoever reads the
    // file just now is not waited for: the next one empties it.
    scrub: () => sqlite.exec(`PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA busy_timeout = ${busyMs}`),
    remove: (id) => connection.write(() => void run("DELETE FROM migrations WHERE id = ?", id), { durable: true }),

    stepStartedAt(migration, step) {
      const row = one("SELECT started_at FROM steps WHERE migration = ? AND step = ? AND undone_at IS NULL", migration, step);
      return row && row["started_at"] !== null ? Date.parse(row["started_at"] as string) : undefined;
    },

    fact<Value>(migration: string, key: string) {
      const row = one("SELECT value FROM facts WHERE migration = ? AND key = ?", migration, key);
      return row && (JSON.parse(row["value"] as string) as Value);
    },
    facts: (migration) =>
      Object.fromEntries(
        all("SELECT key, value FROM facts WHERE migration = ?", migration).map((row) => [
          row["key"] as string,
          JSON.parse(row["value"] as string) as unknown,
        ]),
      ),
    setFact(migration, key, value) {
      const change = () => {
        mustExist(migration);
        if (value === undefined) return void run("DELETE FROM facts WHERE migration = ? AND key = ?", migration, key);
        run("INSERT OR REPLACE INTO facts (migration, key, value) VALUES (?, ?, ?)", migration, key, JSON.stringify(value));
      };
      connection.write(change, { durable: true });
    },

    forwards: () =>
      all("SELECT * FROM forwards ORDER BY service").map((row) => ({
        migration: row["migration"] as string,
        service: row["service"] as string,
        ports: JSON.parse(row["ports"] as string) as string[],
        to: row["destination"] as string,
      })),
    addForward({ migration, service, ports, to }) {
      const change = () => {
        mustExist(migration);
        run("INSERT OR REPLACE INTO forwards VALUES (?, ?, ?, ?)", migration, service, JSON.stringify(ports), to);
      };
      connection.write(change, { durable: true });
    },
    removeForward: (migration) =>
      connection.write(() => void run("DELETE FROM forwards WHERE migration = ?", migration), { durable: true }),

    close: () => sqlite.close(),
  };
}

function updateSchema(sqlite: DatabaseSync, path: string): void {
  // Exclusive from its beginning, so that two processes that open a new file don't both create the tables.
  sqlite.exec("BEGIN IMMEDIATE");
  try {
    const { user_version: version } = sqlite.prepare("PRAGMA user_version").get() as { user_version: number };
    if (version > schemaChanges.length) {
      throw new Error(`${path} was written by a newer release (schema ${version}; this one knows ${schemaChanges.length})`);
    }
    for (const change of schemaChanges.slice(version)) sqlite.exec(change);
    sqlite.exec(`PRAGMA user_version = ${schemaChanges.length}`);
    sqlite.exec("COMMIT");
  } catch (error) {
    if (sqlite.isTransaction) sqlite.exec("ROLLBACK");
    throw error;
  }
}

function write<Result>(sqlite: DatabaseSync, change: () => Result, durable: boolean): Result {
  // In WAL mode NORMAL leaves out just the fsync of the commit (https://sqlite.org/pragma.html#pragma_synchronous).
  // The next durable commit brings what came before it to the disk as well.
  if (!durable) sqlite.exec("PRAGMA synchronous = NORMAL");
  try {
    sqlite.exec("BEGIN IMMEDIATE");
    const result = change();
    sqlite.exec("COMMIT");
    return result;
  } catch (error) {
    if (sqlite.isTransaction) sqlite.exec("ROLLBACK");
    throw error;
  } finally {
    if (!durable) sqlite.exec("PRAGMA synchronous = FULL");
  }
}

function toRecord(row: Record<string, unknown>): MigrationRecord {
  const code = (row["error_code"] ?? row["failure_code"]) as ErrorCode | null;
  return {
    id: row["id"] as string,
    role: row["role"] as MigrationRecord["role"],
    service: row["service"] as string,
    peer: row["peer"] as string,
    request: JSON.parse(row["request"] as string),
    createdAt: row["created_at"] as string,
    endedAt: (row["ended_at"] as string | null) ?? undefined,
    phase: row["phase"] as Phase,
    memoryBytes: row["memory_bytes"] as number,
    bytesSent: row["bytes_sent"] as number,
    report: row["report"] === null ? undefined : (JSON.parse(row["report"] as string) as Report),
    error:
      code === null ? undefined : { code, detail: (row["error_code"] === null ? row["failure_detail"] : row["error_detail"]) as string },
  };
}

function now(): string {
  return new Date().toISOString();
}
