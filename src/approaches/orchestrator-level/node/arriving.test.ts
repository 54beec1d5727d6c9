import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { PodOnNode } from "../../../protocol/pod.ts";
import { createArriving, moveInto } from "./arriving.ts";
import { makeRoomForDump } from "./dump.ts";

function places(): { from: string; to: string } {
  const directory = mkdtempSync(path.join(tmpdir(), "ums-arriving-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const [from, to] = ["from", "to"].map((name) => path.join(directory, name)) as [string, string];
  mkdirSync(path.join(from, "inner"), { recursive: true });
  mkdirSync(path.join(to, "inner"), { recursive: true });
  writeFileSync(path.join(from, "inner", "file"), "moved");
  return { from, to };
}

test("a directory that somebody has mounted already stays, and gets what has come, with its attributes", async () => {
  const { from, to } = places();
  execFileSync("chown", ["1000:2000", path.join(from, "inner")]);
  execFileSync("chmod", ["2751", path.join(from, "inner")]);
  execFileSync("setfattr", ["--name=user.note", "--value=kept", path.join(from, "inner")]);
  const { ino } = statSync(path.join(to, "inner"));
  expect(await moveInto(from, to, { merging: true })).toBe(true);
  expect(readFileSync(path.join(to, "inner", "file"), "utf8")).toBe("moved");
  expect(statSync(path.join(to, "inner"))).toMatchObject({ ino, uid: 1000, gid: 2000, mode: 0o42751 });
  expect(execFileSync("getfattr", ["--only-values", "--name=user.note", path.join(to, "inner")]).toString()).toBe("kept");
});

test("a file takes the place of a directory, and a directory that of a link, which nothing follows", async () => {
  const { from, to } = places();
  writeFileSync(path.join(from, "changed"), "a file");
  mkdirSync(path.join(to, "changed"));
  mkdirSync(path.join(from, "linked"));
  symlinkSync("inner", path.join(to, "linked"));
  await moveInto(from, to, { merging: true });
  expect(readFileSync(path.join(to, "changed"), "utf8")).toBe("a file");
  expect(statSync(path.join(to, "linked")).ino).not.toBe(statSync(path.join(to, "inner")).ino);
});

test("what is whole by itself takes the place of what was there", async () => {
  const { from, to } = places();
  const { ino } = statSync(path.join(from, "inner"));
  writeFileSync(path.join(to, "inner", "old"), "");
  await moveInto(from, to);
  expect(statSync(path.join(to, "inner")).ino).toBe(ino);
});

test("what arrives and what leaves under one id lie apart: neither ends the other", async () => {
  const id = "0a1b2c3d4e5f";
  const directory = mkdtempSync(path.join(tmpdir(), "ums-arriving-"));
  const images = path.join(directory, "images");
  const pod = { uid: "01234567-89ab-4cde-8f01-23456789abcd", namespace: "web", name: "shop", containers: ["main"] };
  const quiet = { info: () => undefined, warn: () => undefined };
  const staging = { changes: path.join(directory, "changes"), volumes: path.join(directory, "volumes") };
  const arriving = createArriving({ imageDirectories: [images], stagingDirectories: staging, restoreTimeoutMs: 1, log: quiet });
  const dump = () => makeRoomForDump([images], id, { pod: { containers: [{ name: "main" }] } as PodOnNode, memoryBytes: 1 });
  try {
    const left = await dump();
    const sent = { peer: "b", secret: "0".repeat(32), mounts: {}, volumes: [], memoryBytes: 1, fileBytes: 1 };
    await arriving.announce(id, { ...pod, ...sent });
    expect(existsSync(path.join(left, "main"))).toBe(true);
    await dump();
    expect(readdirSync(images)).toHaveLength(2);
    await arriving.destroy(id, pod);
    expect(readdirSync(left)).toContain("main");
  } finally {
    await arriving.destroy(id, pod);
    rmSync(directory, { recursive: true });
  }
});
