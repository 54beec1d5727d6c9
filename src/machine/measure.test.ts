import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { diskUsage } from "./measure.ts";

test("files count by their names, too: what carries a thousand empty ones is large", async () => {
  const directory = mkdtempSync(join(tmpdir(), "ums-measure-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const before = await diskUsage([directory], AbortSignal.timeout(10_000));
  for (let count = 0; count < 1_000; count++) writeFileSync(join(directory, String(count)), "");
  // An archive has 1536 bytes for each.
  expect((await diskUsage([directory], AbortSignal.timeout(10_000))) - before).toBeGreaterThan(1_000 * 1_536);
});
