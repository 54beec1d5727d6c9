import type { Check } from "./check.ts";

const trustedForMs = 60_000;
const trusted = new Map<string, { until: number; checks: Check[] }>();

/** What starts processes is not tried again within a minute: a plan and the steps of a migration come close together. A failure is never remembered. */
export async function oncePassed(key: string, make: () => Promise<Check | Check[]>): Promise<Check[]> {
  const known = trusted.get(key);
  if (known && known.until > Date.now()) return known.checks;
  trusted.delete(key);
  const checks = [await make()].flat();
  if (checks.every(({ ok }) => ok)) trusted.set(key, { until: Date.now() + trustedForMs, checks });
  return checks;
}
