import { expect, test } from "vitest";
import { heirIdOf, type MigrationObject } from "../../platforms/kubernetes/migration.ts";
import { expectAlone } from "./rivals.ts";

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

test("one that makes a pod again of a dump goes on beside the one that has left it that, and beside no other", () => {
  const [node, path] = ["a-1", "/var/lib/kubelet/migration/ums-rescued/0123456789ab"];
  const heir = (id: string) => migration("two", { id, snapshot: { node, path } });
  const undone = migration("one", {}, { facts: { source: { rescued: { node, path, migration: "ba9876543210" } } } });
  const tried = migration("one", { snapshot: { node, path } }, { facts: { heir: { migration: "ba9876543210" } } });
  for (const before of [undone, tried]) {
    expect(code(heir(heirIdOf(before)), before)).toBe("alone");
    // No fact says whose turn it is.
    expect(code(heir("ba9876543210"), before)).toBe("ALREADY_MIGRATING");
    expect(code(migration("two"), before)).toBe("ALREADY_MIGRATING");
  }
});
