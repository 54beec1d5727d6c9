import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type ContainerdPlaces, findTask, tasksOfPod } from "./containerd.ts";

const id = "c".repeat(64);
let state: string;
let places: ContainerdPlaces[];

beforeEach(() => {
  state = mkdtempSync(path.join(tmpdir(), "ums-containerd-"));
  places = [{ bundles: path.join(state, "bundles"), runcRoot: path.join(state, "runc") }];
});
afterEach(() => rmSync(state, { recursive: true }));

function runs(pid: number): void {
  for (const directory of ["bundles", "runc"]) mkdirSync(path.join(state, directory, id), { recursive: true });
  writeFileSync(path.join(state, "bundles", id, "init.pid"), String(pid));
  writeFileSync(path.join(state, "runc", id, "state.json"), "{}");
}

test("what has no bundle, or whose process has ended or is another's, does not run here", async () => {
  expect(await findTask(id, places)).toBeUndefined();
  runs(2 ** 22 + 1);
  expect(await findTask(id, places)).toBeUndefined();
  runs(process.pid);
  expect(await findTask(id, places)).toBeUndefined();
  rmSync(path.join(state, "bundles"), { recursive: true });
  writeFileSync(path.join(state, "bundles"), "no directory");
  expect(await findTask(id, places)).toBeUndefined();
});

test("what can't be read is not taken for a container that doesn't run", async () => {
  mkdirSync(path.join(state, "bundles", id, "init.pid"), { recursive: true });
  await expect(findTask(id, places)).rejects.toMatchObject({ code: "EISDIR" });
  await expect(tasksOfPod("any", places)).rejects.toMatchObject({ code: "EISDIR" });
});
