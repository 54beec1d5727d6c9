import { setTimeout as sleep } from "node:timers/promises";
import { UmsError } from "../../errors.ts";
import type { Migration } from "../coordinator/schema.ts";
import { exitCodeOfMigration, exitCodes } from "./exit-codes.ts";
import { createProgressView, describe } from "./progress.ts";
import type { Session } from "./verb.ts";

/** For how long a `ums serve` that is gone is waited for: a service manager starts it again, and it finishes or undoes what it finds. */
const absenceMs = 30_000;

const retryMs = 500;

/**
 * Shows a migration until it ends, the person leaves, or it has waited for the other site for longer than
 * `patienceMs` (0: without limit). Answers the exit code; leaving never ends the migration.
 */
export async function follow(
  session: Session,
  { id, known, patienceMs }: { id: string; known?: Migration; patienceMs: number },
): Promise<number> {
  const { client, terminal, interrupted } = session;
  const impatient = new AbortController();
  const signal = AbortSignal.any([interrupted(), impatient.signal]);
  const left = () => signal.aborted;
  const view = createProgressView(terminal);
  let last = known;
  let patience: NodeJS.Timeout | undefined;
  let absentSince: number | undefined;
  try {
    while (last?.endedAt === undefined && !left()) {
      try {
        for await (const migration of client.events(id, signal)) {
          last = migration;
          absentSince = undefined;
          view.show(migration);
          if (migration.waiting === undefined) {
            clearTimeout(patience);
            patience = undefined;
          } else if (patienceMs > 0) {
            patience ??= setTimeout(() => impatient.abort(), patienceMs);
          }
        }
      } catch (error) {
        if (left()) break;
        const absent = !(error instanceof UmsError) || error.code === "SERVE_NOT_RUNNING";
        absentSince ??= Date.now();
        if (last === undefined || !absent || Date.now() - absentSince > absenceMs) throw error;
      }
      if (last?.endedAt === undefined) await sleep(retryMs, undefined, { signal }).catch(() => undefined);
    }
  } finally {
    clearTimeout(patience);
    view.close();
  }
  if (last?.endedAt !== undefined) {
    terminal.result(last, describe(last));
    return exitCodeOfMigration(last);
  }
  const goesOn = `The migration goes on; \`ums watch ${id}\` shows it, \`ums cancel ${id}\` cancels it.`;
  terminal.result(last ?? { id }, impatient.signal.aborted && last ? `${describe(last)}\n${goesOn}` : goesOn);
  return impatient.signal.aborted ? exitCodes.waiting : exitCodes.detached;
}
