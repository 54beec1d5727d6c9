import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { execa } from "execa";
import { expect, onTestFinished, test, vi } from "vitest";
import { cgroupRoot } from "./cgroups.ts";
import { hasLostCriu, removeCgroups } from "./criu.ts";

/** A process that the system knows as runc, which collects no child. @param child what it has started, in the shell's words */
function startRunc(child: string): { settings: string } {
  const directory = mkdtempSync(path.join(tmpdir(), "ums-runc-"));
  const settings = path.join(directory, "criu.conf");
  symlinkSync("/bin/sleep", path.join(directory, "runc"));
  const runc = execa("bash", ["-c", `(${child}) & exec "$0" 60`, path.join(directory, "runc")], {
    env: { CRIU_CONFIG_FILE: settings },
    stdin: "ignore",
    detached: true,
    reject: false,
  });
  onTestFinished(async () => {
    if (runc.pid !== undefined) process.kill(-runc.pid, "SIGKILL");
    await runc;
    rmSync(directory, { recursive: true });
  });
  return { settings };
}

/** Ends once nobody is there any more who would collect it. */
const short = "until grep --quiet runc /proc/$$/comm; do sleep 0.02; done";

test("a restore whose CRIU has ended while its runc waits on has lost it", async () => {
  const { settings } = startRunc(short);
  await vi.waitFor(async () => expect(await hasLostCriu(settings)).toBe(true), { timeout: 20_000 });
});

test("a restore whose CRIU is at work has not lost it, nor has one that nobody works on", async () => {
  const lost = startRunc(short);
  const { settings } = startRunc("sleep 60");
  await vi.waitFor(async () => expect(await hasLostCriu(lost.settings)).toBe(true), { timeout: 20_000 });
  expect(await hasLostCriu(settings)).toBe(false);
  expect(await hasLostCriu("/nonexistent/criu.conf")).toBe(false);
});

test("a container's empty cgroups are removed, with those below, and no one else's", async () => {
  const id = String(process.pid).padStart(64, "0");
  const hierarchy = path.join(cgroupRoot, existsSync(path.join(cgroupRoot, "cpuset")) ? "cpuset" : "");
  const parent = mkdtempSync(path.join(hierarchy, "ums-test-"));
  const own = [`libpod-${id}`, `libpod-${id}/init`, `cri-containerd-${id}.scope`];
  const others = [`libpod-conmon-${id}`, "libpod-1"];
  onTestFinished(() => {
    const groups = [...others, ...own.toReversed()].map((name) => path.join(parent, name)).filter(existsSync);
    for (const group of [...groups, parent]) rmdirSync(group);
  });
  for (const name of [...own, ...others]) mkdirSync(path.join(parent, name));
  await removeCgroups(id);
  expect([...own, ...others].filter((name) => existsSync(path.join(parent, name)))).toEqual(others);
});
