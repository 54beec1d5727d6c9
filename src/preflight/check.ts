/** What a check says: a line of `ums doctor` for people, a result for another site. */
import { type Static, Type } from "typebox";
import { type ErrorCode, errorTable } from "../errors.ts";
import { closed } from "../protocol/forms.ts";
import type { CheckResult, Verdict } from "../protocol/measures.ts";

/** One line of `ums doctor`: what was looked at, what was found, and, where that is not enough, the code and the cure. */
export const Check = Type.Object(
  {
    name: Type.String(),
    ok: Type.Boolean(),
    found: Type.String(),
    code: Type.Optional(Type.String()),
    cure: Type.Optional(Type.String()),
    notes: Type.Optional(Type.Array(Type.String(), { description: "What is different here, though it refuses nothing" })),
  },
  closed,
);
export type Check = Static<typeof Check>;

const longestNote = 1_000;
const mostNotes = 32;
const noting = (notes: readonly string[]) =>
  notes.length === 0 ? {} : { notes: notes.slice(0, mostNotes).map((note) => note.slice(0, longestNote)) };

/** @param notes what is different here, though it refuses nothing, a sentence each */
export const passed = (name: string, found: string, notes: readonly string[] = []): Check => ({ name, ok: true, found, ...noting(notes) });
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

/**
 * @param found what is wrong, a sentence each; nothing is
 * @param notes what will be different after the move, though the service goes on well, a sentence each
 */
export const verdict = (name: string, code: ErrorCode, found: readonly string[], notes: readonly string[] = []): CheckResult =>
  found.length === 0 ? noted(name, notes) : { name, ok: false, code, detail: found.join(" ").slice(0, longestDetail) };

/** A check that refuses nothing. @param notes as of {@link verdict} */
export const noted = (name: string, notes: readonly string[]): CheckResult => ({ name, ok: true, ...noting(notes) });

/** The word for what a check, or a line of `ums doctor`, comes to. */
export const verdictOf = ({ ok, notes = [] }: Pick<CheckResult, "ok" | "notes">): Verdict =>
  !ok ? "refused" : notes.length > 0 ? "note" : "ok";

/** What another site is told of lines of ours: all is well in one word, or what is not. */
export function summary(name: string, checks: readonly Check[]): CheckResult[] {
  const failing = checks.filter(({ ok }) => !ok);
  if (failing.length === 0)
    return [
      noted(
        name,
        checks.flatMap(({ notes = [] }) => notes),
      ),
    ];
  return failing.map(({ name: check, code, found }) => ({
    name: check,
    ok: false,
    ...(code === undefined ? {} : { code }),
    detail: `${check}: ${found}`.slice(0, longestDetail),
  }));
}
