import { join } from "node:path";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import { parseConfig } from "../../config.ts";
import type { ContainerEngine } from "../../container-engines/engine.ts";
import { openDatabase } from "../../platforms/podman-host/database.ts";
import { openTrustFiles } from "../../trust/files.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { openTrust } from "../../trust/trust.ts";
import { createHostCoordinator } from "./host.ts";

test("a host refuses a namespace before it looks for the container, whose name means another service then", async () => {
  const stateDirectory = temporaryDirectory();
  const trust = await openTrust(openTrustFiles(stateDirectory), "alpha");
  const database = openDatabase(join(stateDirectory, "journal.db"));
  const parts = { config: parseConfig({ stateDirectory }), trust, database, log: pino({ level: "silent" }) };
  const coordinator = createHostCoordinator({ ...parts, engine: {} as ContainerEngine });
  onTestFinished(async () => {
    await coordinator.close();
    database.close();
    trust.close();
  });
  const request = { name: "redis", namespace: "default", to: "beta" };
  const refused = expect.objectContaining({ code: "NO_NAMESPACES", message: expect.stringContaining("namespace default") });
  await expect(coordinator.plan(request, AbortSignal.timeout(5_000))).rejects.toThrow(refused);
  await expect(coordinator.migrate(request)).rejects.toThrow(refused);
  expect(coordinator.migrations()).toEqual([]);
});
