import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { describeJournal } from "../../engine/journal.contract.ts";
import { Interrupted } from "../../engine/migrate.ts";
import { UmsError } from "../../errors.ts";
import { openDatabase } from "./database.ts";
import { openJournal } from "./journal.ts";

const request = { id: "m1abcdefgh", role: "source", service: "redis", peer: "west", request: {} } as const;

describeJournal("The journal in SQLite", () => {
  const directory = mkdtempSync(join(tmpdir(), "ums-journal-"));
  const opened = [openDatabase(join(directory, "ums.db"))];
  opened[0]!.create(request);
  return {
    open() {
      const database = openDatabase(join(directory, "ums.db"));
      opened.push(database);
      return openJournal(database, request.id);
    },
    dispose() {
      for (const database of opened) database.close();
      rmSync(directory, { recursive: true });
    },
  };
});

let directory: string;
beforeEach(() => void (directory = mkdtempSync(join(tmpdir(), "ums-journal-"))));
afterEach(() => rmSync(directory, { recursive: true }));

test("what was journalled survives a process that is killed without closing the file", () => {
  const path = join(directory, "ums.db");
  const program = `
    import { openDatabase } from ${JSON.stringify(new URL("database.ts", import.meta.url).href)};
    import { openJournal } from ${JSON.stringify(new URL("journal.ts", import.meta.url).href)};
    const database = openDatabase(${JSON.stringify(path)});
    database.create(${JSON.stringify(request)});
    const journal = openJournal(database, "${request.id}");
    await journal.start("freeze");
    await journal.start("restore");
    await journal.fail(new Error("the link broke"));
    await journal.undone("restore");
    database.setFact("${request.id}", "freezer", { state: "frozen" });
    process.kill(process.pid, "SIGKILL");
    setTimeout(() => {}, 10_000);
  `;
  const { signal, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], { encoding: "utf8", timeout: 20_000 });
  expect([signal, stderr]).toEqual(["SIGKILL", ""]);

  const database = openDatabase(path);
  try {
    const journal = openJournal(database, request.id);
    expect([journal.isStarted("freeze"), journal.isStarted("restore")]).toEqual([true, true]);
    expect([journal.isUndone("freeze"), journal.isUndone("restore")]).toEqual([false, true]);
    expect(journal.failure()?.message).toBe("the link broke");
    expect(database.fact(request.id, "freezer")).toEqual({ state: "frozen" });
  } finally {
    database.close();
  }
});

test("two migrations don't see each other's steps", async () => {
  const database = openDatabase(join(directory, "ums.db"));
  try {
    database.create(request);
    database.create({ ...request, id: "m2abcdefgh", service: "nginx" });
    await openJournal(database, request.id).start("freeze");
    expect(openJournal(database, "m2abcdefgh").isStarted("freeze")).toBe(false);
  } finally {
    database.close();
  }
});

test.each([
  [new UmsError("CANCELLED", "by ops"), "CANCELLED"],
  [new Interrupted("stopped"), "INTERRUPTED"],
  [new Error("unknown"), "INTERNAL"],
  [new DOMException("too slow", "TimeoutError"), "TIMED_OUT"],
] as const)("a failure keeps its code across a crash: %s", async (cause, code) => {
  const database = openDatabase(join(directory, "ums.db"));
  try {
    database.create(request);
    await openJournal(database, request.id).fail(cause);
    expect(openJournal(database, request.id).failure()).toMatchObject({ name: "UmsError", code, message: cause.message });
    expect(database.get(request.id)?.error).toEqual({ code, detail: cause.message });
  } finally {
    database.close();
  }
});

test("an error shown to people does not make a committed migration look failed", async () => {
  const database = openDatabase(join(directory, "ums.db"));
  try {
    database.create(request);
    await openJournal(database, request.id).start("commit");
    database.update(request.id, { error: { code: "SITE_UNREACHABLE", detail: "west does not answer" } });
    expect(openJournal(database, request.id).failure()).toBeUndefined();
  } finally {
    database.close();
  }
});

test("an unknown migration has no journal", () => {
  const database = openDatabase(join(directory, "ums.db"));
  try {
    expect(() => openJournal(database, "nosuchone")).toThrow(expect.objectContaining({ code: "MIGRATION_NOT_FOUND" }));
  } finally {
    database.close();
  }
});

test("how long clients have been held is known after a crash, until their hold is undone", async () => {
  const path = join(directory, "ums.db");
  const database = openDatabase(path);
  database.create(request);
  const journal = openJournal(database, request.id);
  expect(database.stepStartedAt(request.id, "hold-clients")).toBeUndefined();
  const before = Date.now();
  await journal.start("hold-clients");
  database.close();
  const later = openDatabase(path);
  expect(later.stepStartedAt(request.id, "hold-clients")).toBeGreaterThanOrEqual(before);
  await openJournal(later, request.id).undone("hold-clients");
  expect(later.stepStartedAt(request.id, "hold-clients")).toBeUndefined();
  later.close();
});
