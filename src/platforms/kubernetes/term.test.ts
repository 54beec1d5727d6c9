import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { createTermGuard, formatTerm } from "./term.ts";

const term = (leaseMadeAt: number, transitions: number) => formatTerm({ leaseMadeAt, transitions });

test("an operator that leads no more is refused from its successor's first request on, also after a restart of the node's interface", () => {
  const file = join(temporaryDirectory(), "term");
  const guard = createTermGuard(file);
  guard.admit(term(1_700_000_000, 9));
  guard.admit(term(1_700_000_000, 10));
  guard.admit(term(1_700_000_000, 10));
  const stale = () => guard.admit(term(1_700_000_000, 9));
  expect(stale).toThrow(expect.objectContaining({ code: "NOT_LEADING" }));
  expect(() => createTermGuard(file).admit(term(1_700_000_000, 9))).toThrow(expect.objectContaining({ code: "NOT_LEADING" }));
});

test("a Lease that was made anew counts from the beginning, and later than the old one", () => {
  const guard = createTermGuard(join(temporaryDirectory(), "term"));
  guard.admit(term(1_700_000_000, 40));
  guard.admit(term(1_700_000_500, 0));
  expect(() => guard.admit(term(1_700_000_000, 41))).toThrow(expect.objectContaining({ code: "NOT_LEADING" }));
});

test("parts that have no term are admitted, and what is none is refused", () => {
  const guard = createTermGuard(join(temporaryDirectory(), "term"));
  guard.admit(undefined);
  expect(() => guard.admit("-1.2")).toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
});
