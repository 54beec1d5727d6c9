/** What a fuzzer makes of real requests, answers and frames: nearly right, so that it gets further than noise would. */
import fc from "fast-check";

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** Values that have broken programs before. */
const nasty: readonly unknown[] = [
  ...[
    "",
    "..",
    "../../etc/passwd",
    "/",
    "/proc/self/root/etc",
    "-rf",
    "--checkpoint-action=exec=sh",
    "a".repeat(70_000),
    "\u0000",
    "\ud800",
  ],
  ...[
    "$(reboot)",
    "'; DROP TABLE migrations; --",
    "\n}\n}\ntable ip x {",
    "169.254.169.254",
    "::1",
    "localhost",
    "\u202e\u001b[31m",
    "%2e%2e",
  ],
  ...[
    "__proto__",
    "constructor",
    "toString",
    "sha256:",
    `sha256:${"0".repeat(64)}`,
    "volume:0",
    "volume:999",
    "shm",
    "changes",
    "pages-1.img",
  ],
  ...[-1, 0, 1, 0.5, 65_535, 65_536, 2 ** 31, 2 ** 32, 2 ** 53, 1e308, -1e308, 1e-300],
  ...[null, true, false, [], {}, [[]], [null], { "": "" }, { length: -1 }, nested(200), Array.from({ length: 3_000 }, () => "x")],
];

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let level = 0; level < depth; level++) value = level % 2 === 0 ? [value] : { a: value };
  return value;
}

const junk = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...nasty) },
  { weight: 1, arbitrary: fc.jsonValue({ maxDepth: 2 }) },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 40 }) },
);

const change = fc.record({
  at: fc.nat(),
  how: fc.constantFrom("replace", "replace", "remove", "add", "double", "move"),
  value: junk,
  key: fc.oneof(fc.constantFrom("__proto__", "name", "kind", "id", "ports", "0", "length"), fc.string({ maxLength: 12 })),
});
type Change = typeof change extends fc.Arbitrary<infer Value> ? Value : never;

/** Every place in a value, as the object that has it and its key there. */
function placesIn(value: unknown, found: [Record<string, unknown>, string][] = []): [Record<string, unknown>, string][] {
  if (typeof value !== "object" || value === null) return found;
  for (const [key, inner] of Object.entries(value)) {
    found.push([value as Record<string, unknown>, key]);
    placesIn(inner, found);
  }
  return found;
}

function changed(whole: { value: unknown }, { at, how, value: drawn, key }: Change): { value: unknown } {
  const value: unknown = structuredClone(drawn);
  const places = placesIn(whole);
  const [object, name]: [Record<string, unknown>, string] = places[at % places.length] ?? [whole, "value"];
  const there = object[name];
  if (how === "replace") object[name] = value;
  else if (how === "remove") delete object[name];
  else if (how === "move") object[name] = structuredClone(places[(at >>> 8) % places.length]?.[0][name] ?? value);
  else if (how === "double" && Array.isArray(there)) object[name] = [...(there as unknown[]), ...(there as unknown[]), value];
  else if (Array.isArray(there)) there.push(value);
  else if (typeof there === "object" && there !== null)
    Object.defineProperty(there, key, { value, enumerable: true, configurable: true, writable: true });
  else object[name] = [there, value];
  return whole;
}

/** A value that is right but for one to three places. */
export const mutated = (real: unknown): fc.Arbitrary<Json> =>
  fc
    .array(change, { minLength: 1, maxLength: 3 })
    .map(
      (changes) =>
        JSON.parse(
          (JSON.stringify(changes.reduce(changed, { value: structuredClone(real) }).value) as string | undefined) ?? "null",
        ) as Json,
    );

/** Bytes of a text or a frame of which some are others, are missing, or come twice. */
export const garbled = (bytes: Buffer): fc.Arbitrary<Buffer> =>
  fc
    .array(fc.record({ at: fc.nat(), length: fc.nat(16), how: fc.constantFrom("flip", "cut", "repeat"), byte: fc.nat(255) }), {
      minLength: 1,
      maxLength: 4,
    })
    .map((changes) =>
      changes.reduce((all, { at, length, how, byte }) => {
        const from = all.length === 0 ? 0 : at % all.length;
        const [before, piece, after] = [all.subarray(0, from), all.subarray(from, from + length), all.subarray(from + length)];
        if (how === "cut") return Buffer.concat([before, after]);
        if (how === "repeat") return Buffer.concat([before, piece, piece, after]);
        return Buffer.concat([before, Buffer.alloc(piece.length, byte), after]);
      }, bytes),
    );

/** So many values of an arbitrary, the same for the same seed. */
export function* drawn<Value>(arbitrary: fc.Arbitrary<Value>, { seed, count }: { seed: number; count: number }): Generator<Value> {
  const atOnce = 200;
  for (let done = 0; done < count; done += atOnce)
    yield* fc.sample(arbitrary, { seed: seed + done, numRuns: Math.min(atOnce, count - done) });
}
