import type { Migration } from "../../coordinator/schema.ts";
import { exitCodeOfMigration } from "../exit-codes.ts";
import { migrationId } from "../names.ts";
import { describe } from "../progress.ts";
import { formatMs, table } from "../terminal.ts";
import type { Verb } from "../verb.ts";

export const status: Verb = (program, act) => {
  program
    .command("status")
    .description("show the migrations of this site, or one; with an id it exits as that migration has ended")
    .argument("[id]", "the migration", migrationId)
    .action(
      act(async ({ client, terminal }, id: string | undefined) => {
        if (id !== undefined) {
          const migration = await client.call<Migration>("GET", `/migrations/${id}`);
          terminal.result(migration, describe(migration));
          return exitCodeOfMigration(migration);
        }
        const migrations = await client.call<Migration[]>("GET", "/migrations");
        const rows = migrations.map((each) => [
          each.id,
          each.namespace ?? "",
          each.service,
          `${each.source} → ${each.destination}`,
          each.waiting === undefined ? each.phase : `${each.phase} (waits)`,
          each.heldMs === undefined ? "-" : formatMs(each.heldMs),
          each.startedAt,
        ]);
        terminal.result(migrations, table(["ID", "NAMESPACE", "SERVICE", "WAY", "PHASE", "HELD", "STARTED"], rows, "No migrations."));
        return;
      }),
    );
};
