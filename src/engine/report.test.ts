import { expect, test } from "vitest";
import { createReport } from "./report.ts";

function createClock() {
  let now = 1_000;
  return Object.assign(() => now, { pass: (milliseconds: number) => void (now += milliseconds) });
}

test("the report of a migration says where each millisecond went, and what nothing explains", () => {
  const clock = createClock();
  const { observe, report } = createReport(clock);
  const step = (name: string, milliseconds: number) => {
    clock.pass(milliseconds);
    observe({ kind: "step", step: name, milliseconds });
  };
  observe({ kind: "phase", phase: "Pending" });
  clock.pass(5_000);
  observe({ kind: "phase", phase: "Preflight" });
  step("admit", 100);
  clock.pass(3);
  observe({ kind: "phase", phase: "Frozen" });
  step("hold-clients", 10);
  clock.pass(2);
  step("freeze", 20);
  observe({ kind: "phase", phase: "CuttingOver" });
  step("commit", 7);
  step("commit", 8);
  step("forward-clients", 5);
  observe({ kind: "phase", phase: "Succeeded" });
  clock.pass(9_999);
  expect(report()).toEqual({
    phases: { Pending: 5_000, Preflight: 103, Frozen: 32, CuttingOver: 20 },
    steps: { admit: 100, "hold-clients": 10, freeze: 20, commit: 15, "forward-clients": 5 },
    totalMs: 155,
    remainderMs: 5,
    heldMs: 52,
  });
});

test("a report of a migration that still runs counts up to now", () => {
  const clock = createClock();
  const { observe, report } = createReport(clock);
  expect(report()).toEqual({ phases: {}, steps: {}, totalMs: 0, remainderMs: 0 });
  observe({ kind: "phase", phase: "Preflight" });
  clock.pass(40);
  expect(report()).toEqual({ phases: { Preflight: 40 }, steps: {}, totalMs: 40, remainderMs: 40 });
});

test("the clients of a migration that is rolled back are held until their release", () => {
  const clock = createClock();
  const { observe, report } = createReport(clock);
  observe({ kind: "phase", phase: "Frozen" });
  clock.pass(10);
  observe({ kind: "step", step: "hold-clients", milliseconds: 10 });
  clock.pass(50);
  observe({ kind: "phase", phase: "RollingBack" });
  clock.pass(5);
  observe({ kind: "undo", step: "hold-clients", milliseconds: 5 });
  observe({ kind: "phase", phase: "RolledBack" });
  expect(report()).toEqual({
    phases: { Frozen: 60, RollingBack: 5 },
    steps: { "hold-clients": 10, "undo hold-clients": 5 },
    totalMs: 65,
    remainderMs: 50,
    heldMs: 65,
  });
});

test("the clients of a migration that another process takes up have been held since that of before", () => {
  const clock = createClock();
  const { observe, report } = createReport(clock, { heldForMs: 4_000 });
  observe({ kind: "phase", phase: "RollingBack" });
  clock.pass(70);
  observe({ kind: "undo", step: "hold-clients", milliseconds: 5 });
  expect(report().heldMs).toBe(4_070);
});
