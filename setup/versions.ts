/** Whether a dotted version (`4.2.1`, `1.1.5+ds1`) is at least another. */
export function isAtLeast(version: string, minimum: string): boolean {
  const numbers = (text: string) => (/^[\d.]+/.exec(text)?.[0] ?? "0").split(".").map(Number);
  const [have, want] = [numbers(version), numbers(minimum)];
  for (let i = 0; i < want.length; i++) {
    const difference = (have[i] ?? 0) - (want[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}
