import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { resolveIn } from "./dump.ts";
import { readRuntimeState } from "./runtime-state.ts";

let root: string;
beforeEach(() => void (root = mkdtempSync(path.join(tmpdir(), "ums-dump-"))));
afterEach(() => rmSync(root, { recursive: true }));

describe("a mount's place", () => {
  test.each([
    ["/data", "/data"],
    ["/var/run/secrets/token", "/run/secrets/token"],
    ["/out/etc/passwd", "/etc/passwd"],
    ["/up/../var/./run//x/", "/run/x"],
    ["/../../data", "/data"],
    ["/file/below", "/file/below"],
  ])("%s is found at %s, and never outside of the container's root", async (place, found) => {
    for (const directory of ["var", "run", "up"]) mkdirSync(path.join(root, directory));
    symlinkSync("/run", path.join(root, "var/run"));
    symlinkSync("../../../../../..", path.join(root, "out"));
    writeFileSync(path.join(root, "file"), "");
    expect(await resolveIn(root, place)).toBe(found);
  });

  test("behind links that lead in a circle is an error", async () => {
    symlinkSync("two", path.join(root, "one"));
    symlinkSync("one", path.join(root, "two"));
    await expect(resolveIn(root, "/one/more")).rejects.toThrow("Too many links");
  });
});

describe("what a runtime remembers of a container", () => {
  const descriptors = ["/dev/null", "pipe:[1234]", "pipe:[1235]"];
  function remembers(file: string, state: unknown): void {
    mkdirSync(path.join(root, "id"));
    writeFileSync(path.join(root, "id", file), JSON.stringify(state));
  }

  test("is read from runc's state and from crun's status", async () => {
    const config = { labels: ["other=1", "bundle=/run/bundle"], rootfs: "/rootfs" };
    remembers("state.json", { id: "id", init_process_pid: 42, config, external_descriptors: descriptors });
    expect(await readRuntimeState("id", root)).toEqual({ pid: 42, bundle: "/run/bundle", descriptors });
    rmSync(path.join(root, "id"), { recursive: true });
    remembers("status", { pid: 43, bundle: "/run/bundle", external_descriptors: JSON.stringify(descriptors), "systemd-cgroup": true });
    expect(await readRuntimeState("id", root)).toEqual({ pid: 43, bundle: "/run/bundle", descriptors });
  });

  test("is not guessed where it can't be read", async () => {
    const unknown = expect.objectContaining({ code: "DUMP_FAILED", message: expect.stringContaining("Neither runc nor crun") });
    await expect(readRuntimeState("id", root)).rejects.toThrow(unknown);
    await expect(readRuntimeState("id", undefined)).rejects.toThrow(unknown);
    remembers("status", { pid: 0, bundle: "/run/bundle", external_descriptors: "[]" });
    await expect(readRuntimeState("id", root)).rejects.toThrow(unknown);
  });
});
