/** What a check says: a line of `ums doctor` for people, a result for another site. */
import { type Static, Type } from "typebox";
import { type ErrorCode, errorTable } from "../errors.ts";
import { closed } from "../protocol/forms.ts";
import type { CheckResult } from "../protocol/measures.ts";

/** One line of `ums doctor`: what was looked at, what was found, and, where that is not enough, the code and the cure. */
export const Check = Type.Object(
  { name: Type.String(), ok: Type.Boolean(), found: Type.String(), code: Type.Optional(Type.String()), cure: Type.Optional(Type.String()) },
  closed,
);
export type Check = Static<typeof Check>;

export const passed = (name: string, found: string): Check => ({ name, ok: true, found });
export const failed = (name: string, code: ErrorCode, found: string): Check => ({
  name,
  ok: false,
  found,
  code,
  cure: errorTable[code].cure,
});
export const checked = (name: string, ok: boolean, code: ErrorCode, found: string) =>
  ok ? passed(name, found) : failed(name, code, found);

const longestDetail = 4_000;

/** @param found what is wrong, a sentence each; nothing is */
export const verdict = (name: string, code: ErrorCode, found: readonly string[]): CheckResult =>
  found.length === 0 ? { name, ok: true } : { name, ok: false, code, detail: found.join(" ").slice(0, longestDetail) };

/** What another site is told of lines of ours: all is well in one word, or what is not. */
export function summary(name: string, checks: readonly Check[]): CheckResult[] {
  const failing = checks.filter(({ ok }) => !ok);
  if (failing.length === 0) return [{ name, ok: true }];
  return failing.map(({ name: check, code, found }) => ({
    name: check,
    ok: false,
    ...(code === undefined ? {} : { code }),
    detail: `${check}: ${found}`.slice(0, longestDetail),
  }));
}
