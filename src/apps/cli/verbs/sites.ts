import type { Site } from "../../coordinator/schema.ts";
import { siteName } from "../names.ts";
import { table } from "../terminal.ts";
import type { Verb } from "../verb.ts";

export const sites: Verb = (program, act) => {
  program
    .command("sites")
    .description("show the paired sites, or end the trust in one")
    .option("--remove <site>", "end the trust in this site", siteName)
    .action(
      act(async ({ client, terminal }, { remove }: { remove?: string }) => {
        if (remove !== undefined) {
          await client.call("DELETE", `/sites/${remove}`);
          terminal.result({ removed: remove }, `Site ${remove} is no longer trusted; remove this site there too.`);
          return;
        }
        const paired = await client.call<Site[]>("GET", "/sites");
        const rows = paired.map((site) => [site.name, site.reachable ? "yes" : "no", site.addresses.join(","), site.fingerprint]);
        terminal.result(paired, table(["SITE", "ANSWERS", "ADDRESSES", "FINGERPRINT"], rows, "No site is paired; `ums pair` pairs one."));
      }),
    );
};
