import type { Accept } from "../../../accept-form.ts";
import { inWords } from "../../../accept.ts";
import { UmsError } from "../../../errors.ts";
import type { Site } from "../../coordinator/schema.ts";
import { policyOrDefault, siteName } from "../names.ts";
import { table } from "../terminal.ts";
import type { Verb } from "../verb.ts";

export const sites: Verb = (program, act) => {
  program
    .command("sites")
    .description("show the paired sites, say what one may send here, or end the trust in one")
    .argument("[site]", "the site meant by --accept", siteName)
    .option("--accept <policy>", "what it may send here: none, JSON as in the configuration, or default: what any may", policyOrDefault)
    .option("--remove <site>", "end the trust in this site", siteName)
    .action(
      act(async ({ client, terminal }, site: string | undefined, { accept, remove }: { accept?: Accept | "default"; remove?: string }) => {
        if (remove !== undefined) {
          await client.call("DELETE", `/sites/${remove}`);
          terminal.result({ removed: remove }, `Site ${remove} is no longer trusted; remove this site there too.`);
          return;
        }
        if ((site === undefined) !== (accept === undefined))
          throw new UmsError("BAD_REQUEST", "`ums sites SITE --accept POLICY` wants both.");
        if (accept !== undefined) {
          const said = await client.call<Site>("POST", `/sites/${site}/accept`, accept === "default" ? {} : { accept });
          terminal.result(said, `Site ${said.name} may send: ${inWords(said.accept)}.`);
          return;
        }
        const paired = await client.call<Site[]>("GET", "/sites");
        const rows = paired.map((each) => [
          ...[each.name, each.reachable ? "yes" : "no", each.addresses.join(","), each.fingerprint],
          inWords(each.accept),
        ]);
        const head = ["SITE", "ANSWERS", "ADDRESSES", "FINGERPRINT", "MAY SEND"];
        terminal.result(paired, table(head, rows, "No site is paired; `ums pair` pairs one."));
      }),
    );
};
