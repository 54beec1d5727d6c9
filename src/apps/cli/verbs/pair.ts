import type { Site } from "../../coordinator/schema.ts";
import { address } from "../names.ts";
import type { Verb } from "../verb.ts";

type Offer = { code: string; expiresAt: string; site: string; fingerprint: string; addresses: string[] };

export const pair: Verb = (program, act) => {
  program
    .command("pair")
    .description("make a code for another site, or pair with the site that made one")
    .option("--with <host:port>", "the site that made the code", address)
    .option("--code <code>", "its code; asked for where it is not given")
    .action(
      act(async ({ client, terminal, readLine }, options: { with?: string; code?: string }) => {
        if (options.with === undefined) {
          const offer = await client.call<Offer>("POST", "/sites/pairing-code");
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
        const site = await client.call<Site>("POST", "/sites/pair", { address: options.with, code });
        terminal.result(site, `Paired with ${site.name}.\nfingerprint  ${site.fingerprint}`);
      }),
    );
};
