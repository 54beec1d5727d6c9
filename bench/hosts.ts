/**
 * `npm run bench`: client downtime and total time of UMS, Podman's own checkpoint and bare runc with CRIU, in turn, in
 * one run: the machine is noisy, so only ratios within a run count. Writes bench/out/hosts.json and hosts.svg.
 * `--rounds N --memory 16,256 --links unshaped,1000 --subjects ums,podman`
 */
import { mkdir, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { setUp } from "../setup/setup.ts";
import { createSites } from "../e2e/sites.ts";
import { chart } from "./chart.ts";
import { type Measured, rssMiB, type Subject, subjects } from "./subjects.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    memory: { type: "string", default: "16,256,1024" },
    links: { type: "string", default: "unshaped,1000" },
    subjects: { type: "string", default: Object.keys(subjects).join(",") },
  },
});
const rounds = Number(values.rounds);
const sizes = values.memory.split(",").map(Number);
const links = values.links.split(",").map((link) => (link === "unshaped" ? undefined : Number(link)));
const chosen = values.subjects.split(",").map((name) => [name, (subjects as Record<string, Subject>)[name]] as const);

type Spread = Readonly<{ median: number; min: number; max: number }>;
/** One row of the result; later benchmarks use the same form. */
export type Row = Readonly<{ subject: string; memoryMiB: number; link: string; downtimeMs: Spread; totalMs: Spread; rounds: number }>;

await setUp();
await using sites = await createSites();
const idleMiB = [sites.a, sites.b].map((site) => rssMiB(site.serve().outerPid));
const results: { name: string; memoryMiB: number; link: string; measured: Measured[] }[] = [];
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

const rows: Row[] = results.map(({ name, memoryMiB, link, measured }) => ({
  subject: name,
  memoryMiB,
  link,
  downtimeMs: spread(measured.map(({ downtimeMs }) => downtimeMs)),
  totalMs: spread(measured.map(({ totalMs }) => totalMs)),
  rounds,
}));
const out = new URL("./out/", import.meta.url);
await mkdir(out, { recursive: true });
await writeFile(new URL("hosts.json", out), `${JSON.stringify(rows, null, 2)}\n`);
await writeFile(new URL("hosts.svg", out), chart(rows));

console.log(
  "| link | memory | subject | downtime ms: median (min-max) | total ms: median (min-max) | downtime / runc+criu | downtime / podman |",
);
console.log("|---|---|---|---|---|---|---|");
for (const row of rows) {
  const against = (subject: string) => {
    const other = rows.find((each) => each.subject === subject && each.link === row.link && each.memoryMiB === row.memoryMiB);
    return other && other !== row ? (row.downtimeMs.median / other.downtimeMs.median).toFixed(2) : "";
  };
  const text = ({ median, min, max }: Spread) => `${median} (${min}-${max})`;
  console.log(
    `| ${row.link} | ${row.memoryMiB} MiB | ${row.subject} | ${text(row.downtimeMs)} | ${text(row.totalMs)} | ${against("runc+criu")} | ${against("podman")} |`,
  );
}
const moving = results.flatMap(({ measured }) => measured.flatMap(({ rssMiB: rss }) => (rss ? [rss] : [])));
const peak = (side: "source" | "destination") => Math.round(Math.max(0, ...moving.map((rss) => rss[side])));
console.log(
  `\nRSS of ums serve: idle ${idleMiB.map(Math.round).join(" and ")} MiB; at most ${peak("source")} MiB at the source and ${peak("destination")} MiB at the destination while moving.`,
);
for (const { name, memoryMiB, link, measured } of results.filter((result) => result.name === "ums")) {
  const steps = Object.keys(measured[0]?.migration?.steps ?? {});
  console.log(
    `${name} ${memoryMiB} MiB ${link}, median ms by step: ${steps.map((step) => `${step} ${spread(measured.map(({ migration }) => migration?.steps[step] ?? 0)).median}`).join(", ")}`,
  );
}

function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number) => Math.round(sorted[index] ?? 0);
  return { median: at(Math.floor((sorted.length - 1) / 2)), min: at(0), max: at(sorted.length - 1) };
}
