import type { Journal } from "../../engine/ports.ts";
import { codeOf, type ErrorCode, UmsError } from "../../errors.ts";
import type { Database } from "./database.ts";

/**
 * Opens the journal of one migration on the host's database. A start, an undo and the failure cost one fsync each.
 * That a step is done outlives the process at once, and a power loss with the next of those writes.
 * @throws UmsError MIGRATION_NOT_FOUND
 */
export function openJournal({ connection: { sqlite, write } }: Database, migration: string): Journal {
  const row = sqlite.prepare("SELECT failure_code, failure_detail FROM migrations WHERE id = ?").get(migration);
  if (!row) throw new UmsError("MIGRATION_NOT_FOUND", `no migration ${migration}`);

  let failure: Error | undefined;
  if (row["failure_code"] !== null) failure = new UmsError(row["failure_code"] as ErrorCode, row["failure_detail"] as string);
  const known = { started_at: new Set<string>(), done_at: new Set<string>(), undone_at: new Set<string>() };
  type Mark = keyof typeof known;
  const marks = Object.keys(known) as Mark[];
  for (const step of sqlite.prepare("SELECT * FROM steps WHERE migration = ?").all(migration)) {
    for (const mark of marks) if (step[mark] !== null) known[mark].add(step["step"] as string);
  }

  // Prepared beforehand: the grant is written while the service is frozen.
  const statements = Object.fromEntries(
    marks.map((mark) => [
      mark,
      sqlite.prepare(
        `INSERT INTO steps (migration, step, ${mark}) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET ${mark} = coalesce(${mark}, excluded.${mark})`,
      ),
    ]),
  ) as Record<Mark, ReturnType<typeof sqlite.prepare>>;
  const recordFailure = sqlite.prepare("UPDATE migrations SET failure_code = ?, failure_detail = ? WHERE id = ? AND failure_code IS NULL");

  const mark = (mark: Mark, durable: boolean) => async (step: string) => {
    write(() => statements[mark].run(migration, step, new Date().toISOString()), { durable });
    known[mark].add(step);
  };

  return {
    isStarted: (step) => known.started_at.has(step),
    isDone: (step) => known.done_at.has(step),
    isUndone: (step) => known.undone_at.has(step),
    failure: () => failure,
    start: mark("started_at", true),
    done: mark("done_at", false),
    undone: mark("undone_at", true),
    async fail(cause) {
      if (failure) return;
      write(() => recordFailure.run(codeOf(cause), cause.message, migration), { durable: true });
      failure = cause;
    },
  };
}
