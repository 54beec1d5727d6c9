import { expect, test } from "vitest";
import { isAtLeast } from "./versions.ts";

test.each([
  ["4.2.1", "4.2.1", true],
  ["4.2", "4.2.1", false],
  ["4.10", "4.9", true],
  ["1.1.5+ds1", "1.1", true],
  ["3.17.1", "4.2.1", false],
  ["", "1", false],
])("version %j is at least %j: %j", (version, minimum, answer) => {
  expect(isAtLeast(version, minimum)).toBe(answer);
});
