import { describe, expect, test } from "vitest";
import { CheckAnswer, expectForm } from "../protocol/conversation.ts";
import { failed, noted, passed, summary, verdict, verdictOf } from "./check.ts";
import { notesOf } from "./notes.ts";

const change = "Lines that were written before stay behind.";

describe("a check", () => {
  test("is ok, noted or refused, and a note never lets pass what is refused", () => {
    expect(verdictOf(verdict("log", "LOG_DRIVER", []))).toBe("ok");
    expect(verdictOf(verdict("log", "LOG_DRIVER", [], [change]))).toBe("note");
    const refused = verdict("log", "LOG_DRIVER", ["Its log driver is splunk."], [change]);
    expect(refused).toEqual({ name: "log", ok: false, code: "LOG_DRIVER", detail: "Its log driver is splunk." });
    expect(verdictOf(refused)).toBe("refused");
  });

  test("of this machine tells its notes to another site, under the name of all", () => {
    const lines = [passed("runc", "1.1.5", [change]), passed("CRIU", "4.2.1")];
    expect(lines.map(verdictOf)).toEqual(["note", "ok"]);
    expect(summary("the host", lines)).toEqual([{ name: "the host", ok: true, notes: [change] }]);
    expect(summary("the host", [...lines, failed("Podman", "PODMAN_TOO_OLD", "3.0")])).toEqual([
      expect.objectContaining({ name: "Podman", ok: false }),
    ]);
  });

  test("has notes of the form that its peer takes, however many and long they are", () => {
    const answer = {
      checks: [
        noted(
          "log",
          Array.from({ length: 100 }, () => "x".repeat(2_000)),
        ),
      ],
      imageBytes: 0,
    };
    expect(expectForm(CheckAnswer, answer, "the check")).toBe(answer);
    expect(notesOf("beta", [...answer.checks, ...answer.checks]).length).toBe(32);
  });

  test.each([["a sentence"], [[7]], [["x".repeat(1_001)]], [Array.from({ length: 33 }, () => "x")]])(
    "of another site with notes of another form is no answer: %.40j",
    (notes) => {
      const answer = { checks: [{ name: "log", ok: true, notes }], imageBytes: 0 };
      expect(() => expectForm(CheckAnswer, answer, "the check")).toThrow(expect.objectContaining({ code: "PEER_FAILED" }));
    },
  );
});
