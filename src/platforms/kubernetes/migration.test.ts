import { expect, test } from "vitest";
import { conditionsOf, migrationName, newMigrationId } from "./migration.ts";

test("a migration is progressing until it has succeeded or not, and each condition keeps its time", () => {
  const at = (second: number) => new Date(Date.UTC(2026, 0, 1, 0, 0, second));
  const first = conditionsOf({ phase: "Preflight", message: "", now: at(1) });
  expect(first).toEqual([
    { type: "Succeeded", status: "Unknown", reason: "Preflight", message: "", lastTransitionTime: "2026-01-01T00:00:01.000Z" },
    { type: "Progressing", status: "True", reason: "Preflight", message: "", lastTransitionTime: "2026-01-01T00:00:01.000Z" },
  ]);
  const second = conditionsOf({ phase: "Frozen", message: "", before: first, now: at(2) });
  expect(second.map(({ reason, lastTransitionTime }) => [reason, lastTransitionTime])).toEqual(
    [1, 1].map((second) => ["Frozen", at(second).toISOString()]),
  );
  const states = (phase: "Succeeded" | "RolledBack" | "Failed") =>
    conditionsOf({ phase, message: "why", before: second, now: at(3) }).map(({ type, status, lastTransitionTime }) => [
      type,
      status,
      lastTransitionTime === at(3).toISOString(),
    ]);
  expect(states("Succeeded")).toEqual([
    ["Succeeded", "True", true],
    ["Progressing", "False", true],
  ]);
  for (const phase of ["RolledBack", "Failed"] as const) expect(states(phase)[0]).toEqual(["Succeeded", "False", true]);
});

test("an id is twelve hex digits, and names an object", () => {
  expect(migrationName(newMigrationId())).toMatch(/^mig-[0-9a-f]{12}$/);
});
