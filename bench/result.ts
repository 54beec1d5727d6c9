/** What a benchmark has measured, as JSON, as a picture and as a table. All of them have the same form. */
import { mkdir, writeFile } from "node:fs/promises";
import { chart, type Row, type Spread } from "./chart.ts";
import type { Measured } from "./subjects.ts";

export type Result = Readonly<{ name: string; memoryMiB: number; link: string; measured: Measured[] }>;

/** Writes bench/out/NAME.json and NAME.svg, and prints the table, with the ratio of each row to the subjects it is held against. */
export async function publish(name: string, results: readonly Result[], { against }: { against: readonly string[] }): Promise<void> {
  const rows: Row[] = results.map(({ name: subject, memoryMiB, link, measured }) => ({
    subject,
    memoryMiB,
    link,
    downtimeMs: spread(measured.map(({ downtimeMs }) => downtimeMs)),
    totalMs: spread(measured.map(({ totalMs }) => totalMs)),
    rounds: measured.length,
  }));
  const out = new URL("./out/", import.meta.url);
  await mkdir(out, { recursive: true });
  await writeFile(new URL(`${name}.json`, out), `${JSON.stringify(rows, null, 2)}\n`);
  await writeFile(new URL(`${name}.svg`, out), chart(rows));

  const headings = ["link", "memory", "subject", "downtime ms: median (min-max)", "total ms: median (min-max)"];
  console.log(`| ${[...headings, ...against.map((subject) => `downtime / ${subject}`)].join(" | ")} |`);
  console.log(`|${"---|".repeat(headings.length + against.length)}`);
  for (const row of rows) {
    const ratio = (subject: string) => {
      const other = rows.find((each) => each.subject === subject && each.link === row.link && each.memoryMiB === row.memoryMiB);
      return other && other !== row ? (row.downtimeMs.median / other.downtimeMs.median).toFixed(2) : "";
    };
    const text = ({ median, min, max }: Spread) => `${median} (${min}-${max})`;
    const cells = [row.link, `${row.memoryMiB} MiB`, row.subject, text(row.downtimeMs), text(row.totalMs), ...against.map(ratio)];
    console.log(`| ${cells.join(" | ")} |`);
  }
}

export function printSteps(results: readonly Result[]): void {
  for (const { name, memoryMiB, link, measured } of results) {
    const steps = Object.keys(measured[0]?.migration?.steps ?? {});
    const medians = steps.map((step) => `${step} ${spread(measured.map(({ migration }) => migration?.steps[step] ?? 0)).median}`);
    console.log(`${name} ${memoryMiB} MiB ${link}, median ms by step: ${medians.join(", ")}`);
  }
}

export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number) => Math.round(sorted[index] ?? 0);
  return { median: at(Math.floor((sorted.length - 1) / 2)), min: at(0), max: at(sorted.length - 1) };
}
