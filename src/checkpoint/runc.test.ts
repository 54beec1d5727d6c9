import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { execa } from "execa";
import { expect, onTestFinished, test, vi } from "vitest";
import { hasLostCriu } from "./runc.ts";

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
