/**
 * `npm run bench`: client downtime and total time of UMS, Podman's own checkpoint and bare runc with CRIU, in turn, in
 * one run: the machine is noisy, so only ratios within a run count. Writes bench/out/hosts.json and hosts.svg.
 * `--rounds N --memory 16,256 --links unshaped,1000 --subjects ums,podman`; `--hops N` of a busy service, 0: none
 */
import { parseArgs } from "node:util";
import { setUp } from "../setup/setup.ts";
import { createBusyService } from "../e2e/busy-service.ts";
import { buildImages } from "../e2e/images.ts";
import { createSites } from "../e2e/sites.ts";
import { printSteps, publish, type Result } from "./result.ts";
import { measureServed } from "./served.ts";
import { type Measured, rssMiB, type Subject, subjects } from "./subjects.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    memory: { type: "string", default: "16,256,1024" },
    links: { type: "string", default: "unshaped,1000" },
    subjects: { type: "string", default: Object.keys(subjects).join(",") },
    hops: { type: "string", default: "6" },
  },
});
const rounds = Number(values.rounds);
const sizes = values.memory.split(",").map(Number);
const links = values.links.split(",").map((link) => (link === "unshaped" ? undefined : Number(link)));
const chosen = values.subjects.split(",").map((name) => [name, (subjects as Record<string, Subject>)[name]] as const);

await setUp({ purpose: "benchmark" });
await buildImages(["redis", "services"]);
const results: Result[] = [];
const idleMiB: number[] = [];
{
  await using sites = await createSites();
  idleMiB.push(...[sites.a, sites.b].map((site) => rssMiB(site.serve().outerPid)));
  for (const link of links) {
    await sites.hosts.setRate(link);
    for (const memoryMiB of sizes) {
      const rows = chosen.map(([name, subject]) => ({
        name,
        subject,
        memoryMiB,
        link: link === undefined ? "unshaped" : `${link} Mbit/s`,
        measured: [] as Measured[],
      }));
      results.push(...rows);
      for (let round = 0; round < rounds; round++) {
        for (const row of rows) {
          if (!row.subject) throw new Error(`There is no subject ${row.name}.`);
          const measured = await row.subject(sites, memoryMiB);
          row.measured.push(measured);
          console.error(
            `${row.link} ${memoryMiB} MiB round ${round + 1} ${row.name}: ${Math.round(measured.downtimeMs)} ms down, ${Math.round(measured.totalMs)} ms in all`,
          );
        }
      }
    }
  }
}

await publish("hosts", results, { against: ["runc+criu", "podman"] });
const moving = results.flatMap(({ measured }) => measured.flatMap(({ rssMiB: rss }) => (rss ? [rss] : [])));
const peak = (side: "source" | "destination") => Math.round(Math.max(0, ...moving.map((rss) => rss[side])));
console.log(
  `\nRSS of ums serve: idle ${idleMiB.map(Math.round).join(" and ")} MiB; at most ${peak("source")} MiB at the source and ${peak("destination")} MiB at the destination while moving.`,
);
printSteps(results.filter(({ name }) => name === "ums"));
await measureServed(createBusyService, Number(values.hops));
