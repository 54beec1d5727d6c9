import { mkdirSync, readFileSync, rmdirSync } from "node:fs";
import path from "node:path";
import { execa } from "execa";
import { expect, onTestFinished, test, vi } from "vitest";
import { freezerHierarchy } from "./cgroups.ts";
import { freezerOf, isGroupFrozen, isKilled, killGroup, processesOf, setFrozen } from "./freezer.ts";

let made = 0;

/** A process in a group below a container's, as an init in the container may make one. */
async function startContainer() {
  const { mountPoint, version } = await freezerHierarchy();
  const id = `${process.pid}${++made}`.padStart(64, "0");
  const group = { version, directory: path.join(mountPoint, `libpod-${id}`) };
  const inner = path.join(group.directory, "init.scope");
  mkdirSync(inner, { recursive: true });
  // Nobody collects it until its parent ends.
  const parent = execa("sh", ["-c", '(echo 0 >"$0/cgroup.procs"; exec sleep 60) & exec sleep 60', inner], {
    reject: false,
    detached: true,
  });
  onTestFinished(async () => {
    await setFrozen(group, false);
    if (parent.pid !== undefined) process.kill(-parent.pid, "SIGKILL");
    await parent;
    await vi.waitUntil(() => readFileSync(path.join(inner, "cgroup.procs"), "utf8") === "", { timeout: 20_000 });
    for (const directory of [inner, group.directory]) rmdirSync(directory);
  });
  const pid = () => Number(readFileSync(path.join(inner, "cgroup.procs"), "utf8").trim());
  await vi.waitUntil(() => pid() > 0, { timeout: 20_000 });
  return { container: { pid: pid(), id }, group };
}

test("a container's group is its whole group, also where its init is in one below", async () => {
  const { container, group } = await startContainer();
  expect(await freezerOf(container)).toEqual(group);
  expect(await processesOf(container)).toEqual([container.pid]);
});

test("a process that has got a container's process id is not the container", async () => {
  const { container } = await startContainer();
  const other = { ...container, pid: process.pid };
  expect(await freezerOf(other)).toBeUndefined();
  expect(await processesOf(other)).toEqual([]);
  expect(await isKilled(other)).toBe(true);
});

test("a container that lives is not taken for killed, frozen or not; one that was sent SIGKILL is, though nobody has collected it", async () => {
  const { container, group } = await startContainer();
  expect(await isKilled(container)).toBe(false);
  await setFrozen(group, true);
  expect(await isGroupFrozen(group)).toBe(true);
  expect(await isKilled(container)).toBe(false);
  await killGroup(group);
  await vi.waitFor(async () => expect(await isKilled(container)).toBe(true), { timeout: 5_000 });
  await setFrozen(group, false);
  await vi.waitFor(() => expect(readFileSync(`/proc/${container.pid}/status`, "utf8")).toMatch(/^State:\s+Z/m), { timeout: 5_000 });
  expect(await isKilled(container)).toBe(true);
});

test("a group that is gone has nothing to kill, and is not frozen", async () => {
  const { group } = await startContainer();
  const gone = { ...group, directory: `${group.directory}-gone` };
  await killGroup(gone);
  expect(await isGroupFrozen(gone)).toBe(false);
});
