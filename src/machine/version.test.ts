import { describe, expect, test } from "vitest";
import { isAtLeast } from "./version.ts";

describe("versions", () => {
  test.each([
    ["4.3.1", "4.3", true],
    ["4.3", "4.3.1", false],
    ["1.1.5+ds1", "1.1", true],
    ["10.0", "9.9", true],
    ["6.18.44-generic", "6.18", true],
    ["5.15.0", "6.1", false],
    ["no version", "1", false],
  ])("%s is at least %s: %s", (version, wanted, expected) => expect(isAtLeast(version, wanted)).toBe(expected));
});
