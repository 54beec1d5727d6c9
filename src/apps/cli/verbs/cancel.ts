import type { Migration } from "../../coordinator/schema.ts";
import { migrationId } from "../names.ts";
import { describe } from "../progress.ts";
import type { Verb } from "../verb.ts";

export const cancel: Verb = (program, act) => {
  program
    .command("cancel")
    .description("undo a migration; refused once it has passed its commit")
    .argument("<id>", "the migration", migrationId)
    .action(
      act(async ({ client, terminal }, id: string) => {
        const migration = await client.call<Migration>("DELETE", `/migrations/${id}`);
        terminal.result(migration, migration.endedAt === undefined ? `Migration ${id} is being undone.` : describe(migration));
      }),
    );
};
