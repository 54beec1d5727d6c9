/** What of a service its destination has no words for. */
import { type ErrorCode, UmsError } from "../../errors.ts";
import { verdict } from "../../preflight/check.ts";
import type { CheckResult } from "../../protocol/measures.ts";

export type Refusal = Readonly<{ code: ErrorCode; detail: string }>;

/** @param found sentences, each with whether it applies */
export const refusalsOf = (code: ErrorCode, found: readonly (readonly [applies: boolean, detail: string])[]): Refusal[] =>
  found.filter(([applies]) => applies).map(([, detail]) => ({ code, detail }));

/** One check for each code. */
export function asChecks(refusals: readonly Refusal[]): CheckResult[] {
  const codes = [...new Set(refusals.map(({ code }) => code))];
  return codes.map((code) =>
    verdict(
      "what the destination can express",
      code,
      refusals.filter((refusal) => refusal.code === code).map(({ detail }) => detail),
    ),
  );
}

/** A pod's manifest has no schema here; what of it can't be read is its sender's mistake. @throws UmsError BAD_REQUEST */
export function understood<T>(read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new UmsError("BAD_REQUEST", "The pod's manifest can't be read.", { cause });
  }
}
