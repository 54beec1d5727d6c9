import { existsSync } from "node:fs";
import { join } from "node:path";
import { Argument } from "commander";
import { UmsError } from "../../../errors.ts";
import type { MigrationRecord } from "../../../platforms/podman-host/database.ts";
import type { Verb } from "../verb.ts";

/** What the Debian package asks before it changes anything (deploy/debian/prerm), also where no `ums serve` runs. */
export const may: Verb = (program, act) => {
  program
    .command("__may", { hidden: true })
    .addArgument(new Argument("<change>").choices(["upgrade", "remove"]))
    .option("--config <path>")
    .action(
      act(async ({ terminal }, change: "upgrade" | "remove", options: { config?: string }) => {
        const { loadConfig } = await import("../../../config.ts");
        const { unfinished, forwards } = await journalled(loadConfig(options.config).stateDirectory);
        if (unfinished.length > 0)
          throw new UmsError("MIGRATION_OPEN", `Not all migrations of this host have ended: ${unfinished.map(wayOf).join(", ")}.`);
        if (change === "remove") {
          if (forwards.length > 0)
            throw new UmsError("CLIENTS_LED", `Clients are led on to what has gone from here: ${forwards.join(", ")}.`);
          const { shimUsers } = await import("../../../container-engines/podman/shim-users.ts");
          const users = await shimUsers();
          if (users.length > 0) throw new UmsError("SHIM_NEEDED", `Containers here have UMS's OCI runtime: ${users.join(", ")}.`);
        }
        terminal.result({}, "");
      }),
    );
};

async function journalled(stateDirectory: string): Promise<{ unfinished: MigrationRecord[]; forwards: string[] }> {
  const file = join(stateDirectory, "journal.db");
  if (!existsSync(file)) return { unfinished: [], forwards: [] };
  const { openDatabase } = await import("../../../platforms/podman-host/database.ts");
  const database = openDatabase(file);
  try {
    return {
      unfinished: database.unfinished(),
      forwards: database.forwards().map(({ migration, service }) => `${service} (${migration})`),
    };
  } finally {
    database.close();
  }
}

const wayOf = ({ id, role, service, peer }: MigrationRecord) => `${id} (${service} ${role === "source" ? "to" : "from"} ${peer})`;
