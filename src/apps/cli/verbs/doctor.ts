import { type Check, verdictOf } from "../../../preflight/check.ts";
import { exitCodes } from "../exit-codes.ts";
import type { Verb } from "../verb.ts";

export const doctor: Verb = (program, act) => {
  program
    .command("doctor")
    .description("check whether this site can take part in migrations")
    .option("--containers", "say of each container that runs here whether it could move, too")
    .action(
      act(async ({ client, terminal }, { containers }: { containers?: boolean }) => {
        const checks = await client.call<Check[]>("GET", containers ? "/doctor?containers=true" : "/doctor");
        terminal.result(
          checks,
          checks
            .map((check) => {
              const more = [check.cure ?? [], check.notes ?? []].flat().map((text) => ` ${text}`);
              return `${verdictOf(check).padEnd(7)}  ${check.name}: ${check.found}${more.join("")}`;
            })
            .join("\n"),
        );
        return checks.every((check) => check.ok) ? exitCodes.ok : exitCodes.refused;
      }),
    );
};
