import { mkdtempSync, rmSync, readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, expect, test } from "vitest";
import { AlreadyMigrating, type Database, openDatabase } from "./database.ts";

const redis = { id: "m1abcdefgh", role: "source", service: "redis", peer: "west", request: { name: "redis", to: "west" } } as const;

let directory: string;
let path: string;
let database: Database;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "ums-database-"));
  path = join(directory, "state", "ums.db");
  database = openDatabase(path);
});
afterEach(() => {
  database.close();
  rmSync(directory, { recursive: true });
});

test("a new migration is pending and unfinished", () => {
  const record = database.create(redis);
  expect(record).toEqual({
    ...redis,
    createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    endedAt: undefined,
    phase: "Pending",
    memoryBytes: 0,
    bytesSent: 0,
    report: undefined,
    error: undefined,
  });
  expect(database.get(redis.id)).toEqual(record);
  expect(database.unfinished()).toEqual([record]);
  expect(database.get("nosuchone")).toBeUndefined();
});

test("what has changed is kept, and the rest stays as it was", () => {
  database.create(redis);
  database.update(redis.id, { phase: "Frozen", memoryBytes: 2 ** 40 });
  database.update(redis.id, { bytesSent: 7 });
  const report = { phases: { Frozen: 3 }, steps: { freeze: 2 }, totalMs: 3, remainderMs: 1, heldMs: 3 };
  const ended = database.end(redis.id, { phase: "RolledBack", report, error: { code: "CANCELLED", detail: "by ops" } });
  expect(ended).toMatchObject({
    phase: "RolledBack",
    memoryBytes: 2 ** 40,
    bytesSent: 7,
    report,
    error: { code: "CANCELLED", detail: "by ops" },
  });
  expect(ended.endedAt).toBeDefined();
  expect(database.unfinished()).toEqual([]);
  database.close();
  database = openDatabase(path);
  expect(database.get(redis.id)).toEqual(ended);
});

test("an unknown migration can't be changed, ended or given facts and forwards", () => {
  const notFound = expect.objectContaining({ code: "MIGRATION_NOT_FOUND" });
  expect(() => database.update("nosuchone", { phase: "Frozen" })).toThrow(notFound);
  expect(() => database.end("nosuchone", {})).toThrow(notFound);
  expect(() => database.setFact("nosuchone", "key", 1)).toThrow(notFound);
  expect(() => database.addForward({ migration: "nosuchone", service: "redis", ports: [], to: "10.0.0.2" })).toThrow(notFound);
});

test("a service has one unfinished migration at a time, and the refusal names it", () => {
  database.create(redis);
  const second = { ...redis, id: "m2abcdefgh" };
  let refusal: unknown;
  try {
    database.create(second);
  } catch (error) {
    refusal = error;
  }
  expect(refusal).toBeInstanceOf(AlreadyMigrating);
  expect(refusal).toMatchObject({ code: "ALREADY_MIGRATING", migration: redis.id });
  database.create({ ...second, service: "nginx" });
  database.end(redis.id, { phase: "Succeeded" });
  database.create({ ...redis, id: "m3abcdefgh" });
  expect(database.list().map(({ id }) => id)).toEqual(["m3abcdefgh", "m2abcdefgh", "m1abcdefgh"]);
  expect(database.unfinished().map(({ id }) => id)).toEqual(["m2abcdefgh", "m3abcdefgh"]);
});

test("a service that comes in does not hinder one of the same name that goes out", () => {
  database.create({ ...redis, role: "destination" });
  database.create({ ...redis, id: "m2abcdefgh" });
  expect(database.unfinished()).toHaveLength(2);
});

test("facts are kept by migration and key until they are forgotten", () => {
  database.create(redis);
  database.setFact(redis.id, "pid", 7);
  database.setFact(redis.id, "pid", 8);
  database.setFact(redis.id, "rules", ["a", { b: null }]);
  expect(database.fact(redis.id, "pid")).toBe(8);
  expect(database.facts(redis.id)).toEqual({ pid: 8, rules: ["a", { b: null }] });
  database.setFact(redis.id, "pid", undefined);
  expect(database.fact(redis.id, "pid")).toBeUndefined();
  expect(database.facts("m2abcdefgh")).toEqual({});
});

test("a forward is kept until it is removed, and goes with its migration", () => {
  database.create(redis);
  const forward = { migration: redis.id, service: "redis", ports: ["6379/tcp"], to: "10.0.0.2" };
  database.addForward(forward);
  database.addForward(forward);
  expect(database.forwards()).toEqual([forward]);
  database.removeForward(redis.id);
  expect(database.forwards()).toEqual([]);
  database.addForward(forward);
  database.remove(redis.id);
  expect([database.forwards(), database.list()]).toEqual([[], []]);
});

test("the file is on disk in WAL mode with full synchronisation, also after a write that needed none", () => {
  const pragma = (name: string) => Object.values(database.connection.sqlite.prepare(`PRAGMA ${name}`).get()!)[0];
  database.create(redis);
  database.update(redis.id, { phase: "Frozen" });
  expect([pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")]).toEqual(["wal", 2, 1]);
  expect(statSync(join(directory, "state")).mode & 0o777).toBe(0o700);
});

test("a write that fails leaves nothing half done, and the next one works", () => {
  database.create(redis);
  const { write, sqlite } = database.connection;
  for (const durable of [true, false]) {
    const half = () => {
      sqlite.exec("UPDATE migrations SET service = 'half'");
      throw new Error("broken off");
    };
    expect(() => write(half, { durable })).toThrow("broken off");
  }
  expect(database.get(redis.id)?.service).toBe("redis");
  database.update(redis.id, { phase: "Frozen" });
});

test("a file that a newer release has written is left alone", () => {
  database.close();
  const newer = new DatabaseSync(path);
  newer.exec("PRAGMA user_version = 99");
  newer.close();
  expect(() => openDatabase(path)).toThrow(/newer release/);
  const older = new DatabaseSync(path);
  older.exec("PRAGMA user_version = 1");
  older.close();
  database = openDatabase(path);
});

test("only root can read it: it holds environments", () => {
  for (const file of [path, `${path}-wal`, `${path}-shm`]) expect(statSync(file).mode & 0o777).toBe(0o600);
});

test("migrations that ended long ago are forgotten, but for those that lead clients", () => {
  for (const id of ["m1", "m2", "m3"]) {
    database.create({ ...redis, id, service: id });
    if (id !== "m3") database.end(id, { phase: "Succeeded" });
  }
  database.addForward({ migration: "m2", service: "m2", ports: ["6379/tcp"], to: "west" });
  database.prune(new Date(Date.now() - 60_000).toISOString());
  expect(database.list()).toHaveLength(3);
  database.prune(new Date(Date.now() + 60_000).toISOString());
  expect(
    database
      .list()
      .map(({ id }) => id)
      .toSorted(),
  ).toEqual(["m2", "m3"]);
});

test("of a peer's migrations that came to nothing the newest are known, and all that were committed", () => {
  for (let at = 0; at < 20; at++) {
    database.create({ id: `gone-${at}`, role: "destination", service: "", peer: "greedy", request: {} });
    database.end(`gone-${at}`, { phase: "RolledBack" });
  }
  database.create({ ...redis, id: "kept", role: "destination", peer: "greedy" });
  database.end("kept", { phase: "Succeeded" });
  database.create({ id: "others", role: "destination", service: "", peer: "other", request: {} });
  database.end("others", { phase: "RolledBack" });
  database.pruneRefused("greedy", 3);
  expect(database.list().map(({ id }) => id)).toEqual(["others", "kept", "gone-19", "gone-18", "gone-17"]);
});

test("what is forgotten and scrubbed is in none of its files any more", () => {
  database.create(redis);
  database.setFact(redis.id, "need", { env: { PASSWORD: "hunter2" } });
  const told = () => [path, `${path}-wal`].filter((file) => readFileSync(file, "latin1").includes("hunter2"));
  expect(told()).not.toEqual([]);
  database.setFact(redis.id, "need", undefined);
  database.scrub();
  expect(told()).toEqual([]);
});
