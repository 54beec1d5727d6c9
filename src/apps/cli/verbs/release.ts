import type { Forward } from "../../coordinator/schema.ts";
import { migrationId } from "../names.ts";
import { table } from "../terminal.ts";
import type { Verb } from "../verb.ts";

export const release: Verb = (program, act) => {
  program
    .command("release")
    .description("end the forward that a migration left at the old address; without an id: show the forwards")
    .argument("[id]", "the migration", migrationId)
    .action(
      act(async ({ client, terminal }, id: string | undefined) => {
        if (id === undefined) {
          const forwards = await client.call<Forward[]>("GET", "/forwards");
          const rows = forwards.map(({ migration, namespace = "", service, ports, to }) => [
            migration,
            namespace,
            service,
            ports.join(","),
            to,
          ]);
          terminal.result(forwards, table(["MIGRATION", "NAMESPACE", "SERVICE", "PORTS", "TO"], rows, "No forwards."));
          return;
        }
        await client.call("DELETE", `/forwards/${id}`);
        terminal.result({ released: id }, `The old address of migration ${id} forwards no more.`);
      }),
    );
};
