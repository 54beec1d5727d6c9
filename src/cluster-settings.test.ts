import { expect, test } from "vitest";
import { ownCoordinator, readClusterSettings } from "./cluster-settings.ts";

test.each([
  [undefined, "migration-coordinator.here.svc:80"],
  ["", "migration-coordinator.here.svc:80"],
  ["http://migration-coordinator", "migration-coordinator:80"],
  ["https://10.1.2.3:5000/", "10.1.2.3:5000"],
])("SYNC_HOST %j leads to the coordinator at %s", (SYNC_HOST, address) => {
  const settings = readClusterSettings(SYNC_HOST === undefined ? {} : { SYNC_HOST });
  expect(ownCoordinator(settings, "here")).toBe(address);
});

test("what is no setting is refused by its name", () => {
  for (const environment of [{ SYNC_HOST: "http://a/b" }, { SSU_INTERFACE_NODEPORT: "0" }, { LOG_LEVEL: "loud" }])
    expect(() => readClusterSettings(environment)).toThrow(
      expect.objectContaining({ code: "BAD_CONFIGURATION", message: expect.stringContaining(Object.keys(environment)[0] ?? "") }),
    );
});
