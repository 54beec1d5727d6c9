import type { Accept } from "../../../accept-form.ts";
import { inWords } from "../../../accept.ts";
import type { Site } from "../../coordinator/schema.ts";
import { address, policy } from "../names.ts";
import type { Verb } from "../verb.ts";

type Offer = { code: string; expiresAt: string; site: string; fingerprint: string; addresses: string[] };

export const pair: Verb = (program, act) => {
  program
    .command("pair")
    .description("make a code for another site, or pair with the site that made one")
    .option("--with <host:port>", "the site that made the code", address)
    .option("--code <code>", "its code; asked for where it is not given")
    .option("--accept <policy>", "what that site may send here: none, or JSON as in the configuration; default: what any may", policy)
    .action(
      act(async ({ client, terminal, readLine }, options: { with?: string; code?: string; accept?: Accept }) => {
        const accept = options.accept === undefined ? {} : { accept: options.accept };
        if (options.with === undefined) {
          const offer = await client.call<Offer>("POST", "/sites/pairing-code", accept);
          const where = offer.addresses[0] ?? "HOST:PORT";
          terminal.result(
            offer,
            [
              `code         ${offer.code}`,
              `site         ${offer.site}`,
              `fingerprint  ${offer.fingerprint}`,
              `address      ${offer.addresses.join(", ") || "any of this host's, with the port that ums serve listens on"}`,
              "",
              `On the other site, within ten minutes: ums pair --with ${where} --code ${offer.code}`,
            ].join("\n"),
          );
          return;
        }
        const code = options.code ?? (await readLine("Code: "));
        const site = await client.call<Site>("POST", "/sites/pair", { address: options.with, code, ...accept });
        terminal.result(site, `Paired with ${site.name}.\nfingerprint  ${site.fingerprint}\nit may send  ${inWords(site.accept)}`);
      }),
    );
};
