import type { Service } from "../../coordinator/schema.ts";
import { table } from "../terminal.ts";
import type { Verb } from "../verb.ts";

export const list: Verb = (program, act) => {
  program
    .command("list")
    .description("show the services of this site")
    .action(
      act(async ({ client, terminal }) => {
        const services = await client.call<Service[]>("GET", "/list");
        const rows = services.map((service) => [
          service.namespace,
          service.name,
          service.status,
          service.migratable ? "yes" : "no",
          service.migration ?? "-",
          service.ports.join(",") || "-",
          service.image,
        ]);
        const titles = ["NAMESPACE", "NAME", "STATUS", "MIGRATABLE", "MIGRATION", "PORTS", "IMAGE"];
        terminal.result(services, table(titles, rows, "No services."));
      }),
    );
};
