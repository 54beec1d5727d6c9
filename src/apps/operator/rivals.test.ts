import { expect, test } from "vitest";
import type { MigrationObject } from "../../platforms/kubernetes/migration.ts";
import { expectAlone } from "./rivals.ts";

const snapshot = (path: string) => ({ node: "a-1", path });
function migration(uid: string, spec: Partial<MigrationObject["spec"]> = {}, status: Partial<MigrationObject["status"]> = {}) {
  return {
    apiVersion: "ums.dev/v1",
    kind: "Migration",
    metadata: { uid, name: uid, namespace: "web" },
    spec: { role: "Source", pod: "shop", destination: "b", ...spec },
    status: { owner: "operator-1", ...status },
  } as MigrationObject;
}
const code = (object: MigrationObject, ...others: MigrationObject[]) => {
  try {
    expectAlone(object, { all: [object, ...others], turns: [] });
  } catch (cause) {
    return (cause as { code: string }).code;
  }
  return "alone";
};

test("a migration is refused beside one of the same pod that has begun and not ended", () => {
  expect(code(migration("two"), migration("one"))).toBe("ALREADY_MIGRATING");
  expect(code(migration("two"), migration("one", {}, { endedAt: "2026-01-01T00:00:00Z" }))).toBe("alone");
  expect(code(migration("two"), migration("one", { pod: "other" }))).toBe("alone");
  expect(code(migration("two", { role: "Source", id: "0123456789ab" }), migration("one", { pod: "other", id: "0123456789ab" }))).toBe(
    "BAD_REQUEST",
  );
});

test("one that makes a pod again of a dump goes on beside the one whose dump that is, and beside no other", () => {
  const path = "/var/lib/kubelet/migration/ums-rescued/0123456789ab";
  const undone = migration("one", {}, { facts: { source: { rescued: { node: "a-1", path, migration: "ba9876543210" } } } });
  expect(code(migration("two", { snapshot: snapshot(path) }), undone)).toBe("alone");
  expect(code(migration("two", { snapshot: snapshot("/var/lib/kubelet/migration/another") }), undone)).toBe("ALREADY_MIGRATING");
  expect(code(migration("two"), undone)).toBe("ALREADY_MIGRATING");
});
