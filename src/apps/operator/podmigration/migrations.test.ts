import { expect, test } from "vitest";
import type { MigrationObject } from "../../../platforms/kubernetes/migration.ts";
import { endOf, idOf, idsOf } from "./migrations.ts";

const object = { metadata: { uid: "0123abcd-4567-4abc-8abc-0123456789ab" } };

function made(
  phase: "Succeeded" | "Failed" | "Frozen",
  { count = 1, ...spec }: Partial<MigrationObject["spec"]> & { count?: number } = {},
) {
  const snapshot = count > 1 ? { snapshot: { node: "a-1", path: "/x" } } : {};
  const ended = phase === "Frozen" ? {} : { endedAt: "2026-01-01T00:00:00Z" };
  const error = phase === "Failed" ? { error: { code: "NO_ROOM", message: "full", cure: "" } } : {};
  return {
    metadata: { name: `mig-${spec.pod ?? "shop"}`, annotations: { "ums.dev/replicas": String(count) } },
    spec: { pod: "shop", destination: "a", ...snapshot, ...spec },
    status: { phase, message: phase === "Failed" ? "full" : "done", ...ended, ...error },
  } satisfies MigrationObject;
}

test("each replica has an id of its own, the same again for the same object", () => {
  expect(idOf(object)).toBe("0123abcd4567");
  const ids = idsOf(object, 20);
  expect(ids[0]).toBe("0123abcd4567");
  expect(new Set(ids).size).toBe(20);
  expect(ids.every((id) => /^[0-9a-f]{12}$/.test(id))).toBe(true);
  expect(idsOf(object, 3)).toEqual(ids.slice(0, 3));
});

test("a move ends as its Migration does", () => {
  expect(endOf([])).toBeUndefined();
  expect(endOf([made("Frozen")])).toBeUndefined();
  expect(endOf([made("Succeeded", { rename: "copy" })])).toEqual({
    state: "Completed",
    activePod: "copy",
    currentRevision: "mig-shop",
    message: "done",
  });
  expect(endOf([made("Failed", { rename: "copy" })])).toMatchObject({ state: "Failed", activePod: "shop", message: "NO_ROOM: full" });
});

test("a restore is completed when all of its pods are there, and failed as soon as one is not", () => {
  const replica = (at: number, phase: "Succeeded" | "Failed" | "Frozen") => made(phase, { pod: `shop-${at}`, count: 3 });
  expect(endOf([replica(0, "Succeeded"), replica(1, "Succeeded")])).toBeUndefined(); // the third has not been made yet
  expect(endOf([replica(0, "Succeeded"), replica(1, "Succeeded"), replica(2, "Frozen")])).toBeUndefined();
  expect(endOf([replica(2, "Succeeded"), replica(1, "Succeeded"), replica(0, "Succeeded")])).toMatchObject({
    state: "Completed",
    activePod: "shop-0,shop-1,shop-2",
    currentRevision: "mig-shop-0,mig-shop-1,mig-shop-2",
  });
  expect(endOf([replica(0, "Succeeded"), replica(1, "Failed"), replica(2, "Frozen")])).toMatchObject({
    state: "Failed",
    activePod: "shop-0",
    message: "shop-1: NO_ROOM: full",
  });
});
