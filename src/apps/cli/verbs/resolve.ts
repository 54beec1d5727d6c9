import type { Migration } from "../../coordinator/schema.ts";
import { migrationId } from "../names.ts";
import { describe } from "../progress.ts";
import type { Verb } from "../verb.ts";

export const resolve: Verb = (program, act) => {
  program
    .command("resolve")
    .description("say that the destination of a stuck migration never comes back, so that the source's copy may run again")
    .argument("<id>", "the migration", migrationId)
    .requiredOption("--destination-is-gone", "your word for it: should it come back, two copies would run")
    .action(
      act(async ({ client, terminal }, id: string) => {
        const migration = await client.call<Migration>("POST", `/migrations/${id}/resolve`);
        terminal.result(migration, describe(migration));
      }),
    );
};
