import type { ErrorCode } from "../../errors.ts";
import type { Migration } from "../coordinator/schema.ts";

/** What `ums` exits with; docs/cli.md and `ums --help` show the same. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  refused: 3,
  rolledBack: 4,
  unreachable: 5,
  conflict: 6,
  waiting: 7,
  detached: 130,
} as const;

/** For `ums --help`. */
export const exitCodeHelp = `
Exit codes:
  0    done
  1    failed
  2    wrong usage
  3    refused by a check; nothing was touched
  4    rolled back (or cancelled); the service runs where it was
  5    \`ums serve\` does not run here, or the other site does not answer
  6    in conflict with something else: already migrating, too late, name taken
  7    waiting for the other site; the migration goes on by itself when that answers
  130  detached by Ctrl-C; the migration goes on`;

/** Errors that are no verdict of a check; a check's refusal may have any other code. */
const byError: Partial<Record<ErrorCode, number>> = {
  BAD_REQUEST: exitCodes.usage,
  NO_NAMESPACES: exitCodes.usage,
  BAD_CONFIGURATION: exitCodes.usage,
  SERVE_NOT_RUNNING: exitCodes.unreachable,
  SITE_UNREACHABLE: exitCodes.unreachable,
  ALREADY_MIGRATING: exitCodes.conflict,
  TOO_LATE: exitCodes.conflict,
  NOT_STUCK: exitCodes.conflict,
  SITE_BUSY: exitCodes.conflict,
  SITE_NAME_TAKEN: exitCodes.conflict,
  PAIRED_WITH_ITSELF: exitCodes.conflict,
  SERVE_RUNNING: exitCodes.conflict,
  MIGRATION_OPEN: exitCodes.refused,
  CLIENTS_LED: exitCodes.refused,
  SHIM_NEEDED: exitCodes.refused,
  CANCELLED: exitCodes.rolledBack,
  SERVICE_NOT_FOUND: exitCodes.failed,
  SITE_NOT_FOUND: exitCodes.failed,
  MIGRATION_NOT_FOUND: exitCodes.failed,
  NOT_AUTHORISED: exitCodes.failed,
  NOT_YOURS: exitCodes.failed,
  PEER_FAILED: exitCodes.failed,
  TIMED_OUT: exitCodes.failed,
  INTERRUPTED: exitCodes.failed,
  PODMAN_UNREACHABLE: exitCodes.failed,
  PODMAN_FAILED: exitCodes.failed,
  FILES_UNREADABLE: exitCodes.failed,
  FILES_UNWRITABLE: exitCodes.failed,
  INTERNAL: exitCodes.failed,
};

export function exitCodeOfError(code: string): number {
  return byError[code as ErrorCode] ?? exitCodes.failed;
}

/** A migration that was refused before anything was touched is told from one that was undone. */
export function exitCodeOfMigration(migration: Migration): number {
  if (migration.endedAt === undefined) return migration.waiting === undefined ? exitCodes.ok : exitCodes.waiting;
  if (migration.phase === "Succeeded") return exitCodes.ok;
  const touched = ["PreCopy", "Frozen", "Transferring", "Restoring", "CuttingOver"].some((phase) => phase in migration.phases);
  if (!touched && migration.error) return byError[migration.error.code as ErrorCode] ?? exitCodes.refused;
  return migration.phase === "RolledBack" ? exitCodes.rolledBack : exitCodes.failed;
}
