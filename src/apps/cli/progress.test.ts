import { expect, onTestFinished, test } from "vitest";
import { createFakeCoordinator } from "../coordinator/fake-coordinator.ts";
import { createProgressView, describe } from "./progress.ts";
import { formatBytes, formatMs, printable, table, type Terminal } from "./terminal.ts";

function recorder(live: boolean) {
  const written: string[] = [];
  const terminal: Terminal = {
    json: false,
    live,
    columns: () => 60,
    result: () => undefined,
    say: (text) => void written.push(text),
    draw: (text) => void written.push(text),
    error: () => undefined,
  };
  const view = createProgressView(terminal);
  onTestFinished(() => view.close());
  return { view, written };
}

const { put } = createFakeCoordinator();

test("where a person watches, each finished phase stays with its time and the present one is redrawn with its bytes", () => {
  const { view, written } = recorder(true);
  view.show(put({ id: "m0000001", phase: "Transferring", phases: { Preflight: 120, Frozen: 4 }, bytesSent: 1024 ** 2 }));
  view.show(
    put({ id: "m0000001", phase: "Restoring", phases: { Preflight: 120, Frozen: 4, Transferring: 300 }, bytesSent: 2 * 1024 ** 2 }),
  );
  const finished = written.filter((text) => text.endsWith("\n")).map((text) => text.replace(/^.*✔ /s, ""));
  expect(finished).toEqual(["checking both sites  120 ms\n", "freezing  4 ms\n", "sending memory and changes  300 ms\n"]);
  expect(written.at(-1)).toContain("restoring, 2.0 MiB sent (memory 256 MiB)");
  expect(written.every((text) => text.length < 80)).toBe(true);
});

test("elsewhere a phase is one line, and so is what it waits for", () => {
  const { view, written } = recorder(false);
  view.show(put({ id: "m0000002", phase: "Frozen" }));
  view.show(put({ id: "m0000002", phase: "Frozen", bytesSent: 7 }));
  view.show(put({ id: "m0000002", phase: "Frozen", waiting: "Site beta is silent." }));
  expect(written).toEqual(["m0000002 Frozen: freezing", "m0000002 waits: Site beta is silent."]);
});

test("what a migration has come to is one sentence with its cure", () => {
  const undone = put({
    id: "m0000003",
    phase: "RolledBack",
    error: { code: "TIMED_OUT", message: "It took too long.", cure: "See the log." },
  });
  expect(describe(undone)).toBe("redis stays on alpha; migration m0000003 was undone. It took too long. See the log.");
});

test("text from elsewhere can't steer the terminal", () => {
  expect(printable("a\u001b[2Jb\rc\nd")).toBe("a�[2Jb�c\nd");
});

test("sizes, times and tables are short", () => {
  expect([0, 1023, 1024, 1536, 268_435_456, 1.5 * 1024 ** 4].map(formatBytes)).toEqual([
    "0 B",
    "1023 B",
    "1.0 KiB",
    "1.5 KiB",
    "256 MiB",
    "1.5 TiB",
  ]);
  expect([0.4, 212.3, 12_345].map(formatMs)).toEqual(["0 ms", "212 ms", "12.3 s"]);
  expect(table(["A", "B"], [["long", "x"]], "none")).toBe("A     B\nlong  x");
  expect(
    table(
      ["A", "B", "C"],
      [
        ["1", "", "2"],
        ["3", "", "4"],
      ],
      "none",
    ),
  ).toBe("A  C\n1  2\n3  4");
  expect(table(["A"], [], "none")).toBe("none");
});
