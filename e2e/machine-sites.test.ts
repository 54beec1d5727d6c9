import { describe, expect, test } from "vitest";
import { typedLines } from "./machine-sites.ts";

describe("what a text has a person type", () => {
  const text = [
    ["# Hosts", "", "## Install", "", "```", "apt install ./it.deb # with all", "", "one \\", "  two", "```"],
    ["### More", "", "```", "b# ums pair", "code: 1", "a# ums pair --with b", "```", "## Next", "", "```", "no", "```"],
  ]
    .flat()
    .join("\n");

  test("is every line of a block, or, among answers, what comes after a prompt, up to the next heading of that level", () => {
    expect(typedLines(text, "## Install")).toEqual([
      { at: "each", line: "apt install ./it.deb # with all" },
      { at: "each", line: "one two" },
      { at: "b", line: "ums pair" },
      { at: "a", line: "ums pair --with b" },
    ]);
    expect(() => typedLines(text, "## Remove")).toThrow("has no heading “## Remove”");
  });
});
