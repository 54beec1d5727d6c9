import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isOurs, makeImageDirectory, openMemoryStore } from "./memory.ts";

let shm: string;
beforeEach(() => {
  shm = mkdtempSync(path.join(tmpdir(), "ums-memory-"));
  chmodSync(shm, 0o1777); // as /dev/shm
});
afterEach(() => rmSync(shm, { recursive: true, force: true }));
const asNobody = (...command: string[]) => execFileSync("setpriv", ["--reuid=65534", "--regid=65534", "--clear-groups", ...command]);

test("a directory for memory images is root's alone, whatever it was before", async () => {
  mkdirSync(path.join(shm, "ums"), { mode: 0o755 });
  expect(await isOurs(path.join(shm, "ums"))).toBe(true);
  expect(statSync(path.join(shm, "ums")).mode & 0o777).toBe(0o700);
});

test("one that somebody else has made first is not used: the next one is", async () => {
  asNobody("mkdir", path.join(shm, "ums"));
  const [theirs, ours] = [path.join(shm, "ums"), path.join(shm, "next")];
  expect(await makeImageDirectory([theirs, ours], "0123456789ab", 1)).toBe(path.join(ours, "0123456789ab"));
  await expect(makeImageDirectory([theirs], "0123456789ab", 1)).rejects.toMatchObject({ code: "NO_ROOM" });
});

test("a link, or a place in which anybody may exchange it, is not used", async () => {
  mkdirSync(path.join(shm, "real"));
  symlinkSync(path.join(shm, "real"), path.join(shm, "link"));
  expect(await isOurs(path.join(shm, "link"))).toBe(false);
  chmodSync(shm, 0o777);
  expect(await isOurs(path.join(shm, "real"))).toBe(false);
});

test("a place where nothing can be written is not used: the next one is", async () => {
  const [readOnly, ours] = [path.join(shm, "read-only"), path.join(shm, "next")];
  mkdirSync(readOnly);
  execFileSync("mount", ["-t", "tmpfs", "none", readOnly]);
  try {
    const [open, closed] = [path.join(readOnly, "open"), path.join(readOnly, "closed")];
    mkdirSync(open, { mode: 0o755 });
    mkdirSync(closed, { mode: 0o700 });
    execFileSync("mount", ["-o", "remount,ro", readOnly]);
    expect(await isOurs(open)).toBe(false);
    expect(await makeImageDirectory([open, closed, ours], "0123456789ab", 1)).toBe(path.join(ours, "0123456789ab"));
  } finally {
    execFileSync("umount", [readOnly]);
  }
});

test("of ever more files few are open at once, and each is whole; none is made once the image is complete", () => {
  const directory = path.join(shm, "image");
  mkdirSync(directory);
  const open = () => readdirSync("/proc/self/fd").length;
  const before = open();
  const store = openMemoryStore(directory);
  const files = Array.from({ length: 1_000 }, (_, at) => `core-${at}.img`);
  for (const offset of [0, 4]) for (const file of files) store.write({ file, offset }, Buffer.from("abcd"));
  store.flush();
  expect(open()).toBeLessThan(before + 200);
  store.close();
  expect(open()).toBe(before);
  for (const file of files) expect(readFileSync(path.join(directory, file), "utf8")).toBe("abcdabcd");
  expect(() => store.write({ file: "core-0.img", offset: 0 }, Buffer.from("late"))).toThrow(
    expect.objectContaining({ code: "PEER_FAILED" }),
  );
  expect(open()).toBe(before);
});
