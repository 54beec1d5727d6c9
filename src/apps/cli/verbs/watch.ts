import { follow } from "../follow.ts";
import { migrationId, seconds } from "../names.ts";
import type { Verb } from "../verb.ts";

export const watch: Verb = (program, act) => {
  program
    .command("watch")
    .description("follow a migration to its end; Ctrl-C leaves it alone")
    .argument("<id>", "the migration", migrationId)
    .option("--patience <seconds>", "leave a migration that waits for the other site for so long; 0: never", seconds, 60)
    .action(
      act(async (session, id: string, { patience }: { patience: number }) => await follow(session, { id, patienceMs: patience * 1000 })),
    );
};
