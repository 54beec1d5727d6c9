/** Versions as programs and kernels tell them: `4.3.1`, `1.1.5+ds1`, `6.18.44-generic`. */

/** The leading numbers of a version; empty where it has none. */
export function numbersOf(version: string): number[] {
  const [numbers] = /\d+(\.\d+)*/.exec(version) ?? [];
  return (numbers ?? "").split(".").filter(Boolean).map(Number);
}

/** Whether `version` is `wanted` or newer, as far as `wanted` says: 4.3.1 is at least 4.3. */
export function isAtLeast(version: string, wanted: string): boolean {
  const has = numbersOf(version);
  if (has.length === 0) return false;
  for (const [index, number] of numbersOf(wanted).entries()) {
    const own = has[index] ?? 0;
    if (own !== number) return own > number;
  }
  return true;
}
