/** What clients meet that open a connection for each request: the slowest of their attempts, beside the hold of the same hop. */
import type { Served } from "../e2e/busy-client.ts";
import { spread } from "./result.ts";

type Busy = AsyncDisposable & Readonly<{ hop(): Promise<Served> }>;

/** Moves a busy service so many times and prints what its clients met; nothing where that is 0. */
export async function measureServed(create: () => Promise<Busy>, hops: number): Promise<void> {
  if (hops === 0) return;
  await using busy = await create();
  const met: Served[] = [];
  for (let hop = 0; hop < hops; hop++) met.push(await busy.hop());
  printServed(met);
}

/** Prints a row for each place where clients are. @param hops what they met in each */
function printServed(hops: readonly Served[]): void {
  const places = new Map<string, { slowest: number[]; over: number[]; failures: number; of: number }>();
  const note = (
    where: string,
    { slowestMs, heldMs, failures = 0, of = 0 }: { slowestMs: number; heldMs: number; failures?: number; of?: number },
  ) => {
    const place = places.get(where) ?? { slowest: [], over: [], failures: 0, of: 0 };
    places.set(where, place);
    place.slowest.push(slowestMs);
    place.over.push(slowestMs - heldMs);
    place.failures += failures;
    place.of += of;
  };
  for (const { heldMs, attempts, flows } of hops) {
    for (const { where, slowestMs, failures, succeeded } of attempts)
      note(where, { slowestMs, heldMs, failures: failures.length, of: succeeded + failures.length });
    for (const { where, longestGapMs } of flows) note(`datagrams, ${where}`, { slowestMs: longestGapMs, heldMs });
  }
  const text = (values: readonly number[]) => {
    const { median, min, max } = spread(values);
    return `${median} (${min}-${max})`;
  };
  console.log(
    `\nClients of a busy service, ${hops.length} hops, held for ${text(hops.map(({ heldMs }) => heldMs))} ms: median (min-max)\n`,
  );
  console.log("| client | slowest attempt ms | slowest attempt - hold ms | failed attempts |\n|---|---|---|---|");
  for (const [where, { slowest, over, failures, of }] of places)
    console.log(`| ${where} | ${text(slowest)} | ${text(over)} | ${of === 0 ? "" : `${failures} of ${of}`} |`);
}
