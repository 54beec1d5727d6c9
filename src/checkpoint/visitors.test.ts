import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { expect, onTestFinished, test, vi } from "vitest";
import { cgroupRoot } from "./cgroups.ts";
import { type Freezer, isGroupFrozen, killGroup, processesIn, setFrozen } from "./freezer.ts";
import { freezeUnvisited } from "./visitors.ts";

const descriptorsOf = (pid: number) => (existsSync(`/proc/${pid}/fd`) ? readdirSync(`/proc/${pid}/fd`) : []);

/** A group of its own, and a service in it that listens at a unix socket. */
async function startService() {
  const directory = mkdtempSync(path.join(tmpdir(), "ums-freezer-"));
  const version = existsSync(path.join(cgroupRoot, "freezer")) ? 1 : 2;
  const freezer: Freezer = { version, directory: path.join(cgroupRoot, version === 1 ? "freezer" : "", path.basename(directory)) };
  mkdirSync(freezer.directory);
  const socket = path.join(directory, "socket");
  /** Beside what is there already. */
  const run = (script: string): number => {
    // It waits for its group, as what an engine starts does.
    const child = execa(process.execPath, ["--eval", `process.stdin.once("data", () => { ${script} })`, socket], { reject: false });
    writeFileSync(path.join(freezer.directory, "cgroup.procs"), String(child.pid));
    child.stdin.write("go");
    return child.pid ?? 0;
  };
  onTestFinished(async () => {
    await killGroup(freezer);
    await setFrozen(freezer, false);
    await vi.waitFor(async () => expect(await processesIn(freezer)).toEqual([]), { timeout: 5_000 });
    rmdirSync(freezer.directory);
    rmSync(directory, { recursive: true });
  });
  const init = run(`require("net").createServer(() => undefined).listen(process.argv[1])`);
  await vi.waitUntil(() => existsSync(socket), { timeout: 10_000 });
  /** Resolves when it is connected. @param ms until it leaves */
  const visit = async (ms: number): Promise<number> => {
    const done = path.join(directory, "connected");
    const pid = run(
      `require("net").connect(process.argv[1]).on("connect", () => { require("fs").writeFileSync(${JSON.stringify(done)}, ""); setTimeout(() => process.exit(), ${ms}); })`,
    );
    await vi.waitUntil(() => existsSync(done), { timeout: 10_000 });
    return pid;
  };
  return { freezer, init, visit };
}

test("a container is frozen when its visitor has left", async () => {
  const { freezer, init, visit } = await startService();
  const visitor = await visit(300);
  await freezeUnvisited([{ pid: init, freezer }], { patienceMs: 60_000, visitMs: 60_000 });
  expect(await isGroupFrozen(freezer)).toBe(true);
  // One that has ended holds nothing, also while nobody has collected it.
  expect(descriptorsOf(visitor)).toEqual([]);
});

test("a visitor that stays is not waited for", async () => {
  const { freezer, init, visit } = await startService();
  const visitor = await visit(60_000);
  await sleep(100);
  await freezeUnvisited([{ pid: init, freezer }], { patienceMs: 60_000, visitMs: 100 });
  expect(await isGroupFrozen(freezer)).toBe(true);
  expect(descriptorsOf(visitor)).not.toEqual([]);
});

test("nor is one for ever that has come just now", async () => {
  const { freezer, init, visit } = await startService();
  await visit(60_000);
  await freezeUnvisited([{ pid: init, freezer }], { patienceMs: 100, visitMs: 60_000 });
  expect(await isGroupFrozen(freezer)).toBe(true);
});

test("nor for somebody who has given up", async () => {
  const { freezer, init, visit } = await startService();
  await visit(60_000);
  const giveUp = new AbortController();
  const ended = freezeUnvisited([{ pid: init, freezer }], { signal: giveUp.signal, patienceMs: 60_000, visitMs: 60_000 });
  await sleep(100);
  giveUp.abort();
  await ended;
  await setFrozen(freezer, false);
  expect(await isGroupFrozen(freezer)).toBe(false);
});
