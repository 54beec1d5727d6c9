import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { afterEach, beforeEach, expect, test } from "vitest";
import { compare, list, type Listing, pack, readRecords, settle, unpack } from "./tree.ts";

let work: string;
let from: string;
let to: string;
const signal = new AbortController().signal;

beforeEach(() => {
  work = mkdtempSync(path.join(tmpdir(), "ums-tree-"));
  from = path.join(work, "from");
  to = path.join(work, "to");
  mkdirSync(from);
  mkdirSync(to);
});
afterEach(() => rmSync(work, { recursive: true, force: true }), 60_000); // a disk that is busy takes its time for ten thousands of files

let passes = 0;
const listed = async (live = false) =>
  list(from, path.join(work, `listing-${passes++}`), { ...(live ? { startedAtMs: await settle(from) } : {}), signal });
async function namesIn(file: string): Promise<string[]> {
  const names: string[] = [];
  for await (const some of readRecords(file)) names.push(...some);
  return names;
}
/** A file of names, as a pass makes it. */
function fileOf(names: readonly string[]): string {
  const file = path.join(work, `names-${passes++}`);
  writeFileSync(file, names.map((name) => `${name}\0`).join(""));
  return file;
}

/** One pass, as the two halves of a migration make it. */
async function pass(before: Listing | undefined, { live = true } = {}): Promise<{ listing: Listing; sent: string[] }> {
  const listing = await listed(live);
  const { changed, changedCount, deleted } = await compare(before, listing);
  const sink = unpack(to, await namesIn(deleted));
  if (changedCount > 0) {
    const { content, finished } = pack(from, changed, { live, signal });
    for await (const chunk of content) await sink.write(chunk as Buffer);
    await finished;
  }
  await sink.end();
  return { listing, sent: await namesIn(changed) };
}

/** Everything about a tree that a service could see, hard links by the first name of their inode. */
function describeTree(root: string): Record<string, string> {
  const seen = new Map<bigint, string>();
  const result: Record<string, string> = {};
  const visit = (name: string) => {
    const file = path.join(root, name);
    const stat = lstatSync(file, { bigint: true });
    const first = stat.isDirectory() ? name : (seen.get(stat.ino) ?? name);
    seen.set(stat.ino, first);
    const content = stat.isFile()
      ? readFileSync(file).toString("base64")
      : stat.isSymbolicLink()
        ? readlinkSync(file)
        : stat.isDirectory()
          ? ""
          : String(stat.rdev);
    const attributes = stat.isSymbolicLink()
      ? ""
      : execFileSync("getfattr", ["--dump", "--match=-", "--absolute-names", "--encoding=hex", file], { encoding: "utf8" })
          .split("\n")
          .slice(1)
          .sort()
          .join(" ");
    result[name] = [stat.mode, stat.uid, stat.gid, stat.isDirectory() ? "" : stat.size, stat.mtimeNs, first, attributes, content].join("|");
    if (stat.isDirectory()) for (const child of readdirSync(file).sort()) visit(path.join(name, child));
  };
  visit(".");
  return result;
}

function furnish(): void {
  mkdirSync(path.join(from, "a/b c"), { recursive: true });
  writeFileSync(path.join(from, "a/plain"), "text");
  writeFileSync(path.join(from, "a/b c/ü\n-weird \\ name"), "odd");
  writeFileSync(path.join(from, "--files-from=x"), "not an option");
  linkSync(path.join(from, "a/plain"), path.join(from, "hard"));
  symlinkSync("/etc/passwd", path.join(from, "soft"));
  chownSync(path.join(from, "a"), 1234, 4321);
  chmodSync(path.join(from, "a"), 0o2750);
  writeFileSync(path.join(from, "suid"), "x");
  chownSync(path.join(from, "suid"), 99, 99);
  chmodSync(path.join(from, "suid"), 0o4711);
  execFileSync("setfattr", ["-n", "user.note", "-v", "kept", path.join(from, "a/plain")]);
  execFileSync("setfattr", ["-n", "trusted.overlay.opaque", "-v", "y", path.join(from, "a/b c")]);
  execFileSync("truncate", ["-s", "64M", path.join(from, "sparse")]);
  execFileSync("mknod", [path.join(from, "whiteout"), "c", "0", "0"]);
  execFileSync("mkfifo", [path.join(from, "fifo")]);
  utimesSync(path.join(from, "a/plain"), 1000.5, 1000.5);
}

test("a tree arrives with its owners, modes, times, attributes, links, holes and whiteouts", async () => {
  furnish();
  await pass(undefined);
  expect(describeTree(to)).toEqual(describeTree(from));
  expect(lstatSync(path.join(to, "sparse")).blocks).toBeLessThan(64);
});

test("a later pass brings what was written, made, renamed and deleted since, and little else", async () => {
  furnish();
  writeFileSync(path.join(from, "untouched"), "x".repeat(1000));
  execFileSync("sleep", ["0.1"]);
  const first = await pass(undefined);
  writeFileSync(path.join(from, "a/plain"), "longer text than before");
  rmSync(path.join(from, "suid"));
  renameSync(path.join(from, "a/b c"), path.join(from, "moved"));
  linkSync(path.join(from, "sparse"), path.join(from, "second"));
  rmSync(path.join(from, "fifo"));
  mkdirSync(path.join(from, "fifo"));
  writeFileSync(path.join(from, "fifo/now a directory"), "");
  rmSync(path.join(from, "whiteout"));
  const second = await pass(first.listing, { live: false });
  expect(describeTree(to)).toEqual(describeTree(from));
  expect(second.sent).not.toContain("./untouched");
});

test("a change that hides behind an equal size and an old modification time is found", async () => {
  writeFileSync(path.join(from, "file"), "AAAA");
  utimesSync(path.join(from, "file"), 1000, 1000);
  const first = await pass(undefined);
  writeFileSync(path.join(from, "file"), "BBBB");
  utimesSync(path.join(from, "file"), 1000, 1000);
  await pass(first.listing, { live: false });
  expect(readFileSync(path.join(to, "file"), "utf8")).toBe("BBBB");
});

test("a store to a page that was mapped and dirty before the first pass is found", async () => {
  const file = path.join(from, "mapped");
  writeFileSync(file, "A".repeat(8192));
  // Dirties the page, says so, waits for a line, and stores to the same page again without any system call on the file.
  const program = `
import mmap, sys
f = open(${JSON.stringify(file)}, "r+b"); m = mmap.mmap(f.fileno(), 8192)
m[0:5] = b"first"; print("dirty", flush=True)
sys.stdin.readline(); m[0:5] = b"again"; print("stored", flush=True); sys.stdin.readline()`;
  const { spawn } = await import("node:child_process");
  const child = spawn("python3", ["-c", program], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    const line = () => new Promise<string>((resolve) => child.stdout.once("data", (data: Buffer) => resolve(data.toString())));
    await line();
    execFileSync("sleep", ["0.1"]); // so that the first store's change time lies well before the pass
    const first = await pass(undefined);
    child.stdin.write("\n");
    await line();
    await pass(first.listing, { live: false });
    expect(readFileSync(path.join(to, "mapped"), "latin1").slice(0, 5)).toBe("again");
  } finally {
    child.kill("SIGKILL");
  }
});

test("a pass over a tree whose files vanish meanwhile does not fail", async () => {
  for (let index = 0; index < 50; index++) writeFileSync(path.join(from, `f${index}`), "x");
  const { changed } = await compare(undefined, await listed());
  for (let index = 0; index < 50; index += 2) rmSync(path.join(from, `f${index}`));
  const { content, finished } = pack(from, changed, { live: true, signal });
  for await (const chunk of content) void chunk;
  await expect(finished).resolves.toBeUndefined();
  const { content: strict, finished: failed } = pack(from, changed, { live: false, signal });
  for await (const chunk of strict) void chunk;
  await expect(failed).rejects.toMatchObject({ code: "FILES_UNREADABLE" });
});

test("a path to delete outside of the tree is refused", async () => {
  await expect(unpack(to, ["./../from"]).end()).rejects.toMatchObject({ code: "BAD_REQUEST" });
});

test("a link that an earlier pass has made leads nowhere: outside of the tree nothing is written and nothing deleted", async () => {
  const outside = path.join(work, "outside");
  mkdirSync(outside);
  writeFileSync(path.join(outside, "kept"), "");
  for (const target of [outside, "../outside"]) {
    symlinkSync(target, path.join(to, "x"));
    mkdirSync(path.join(from, "x"), { recursive: true });
    writeFileSync(path.join(from, "x/planted"), "");
    const { content, finished } = pack(from, fileOf(["./x/planted"]), { live: false, signal });
    const sink = unpack(to, ["./x/kept"]);
    for await (const chunk of content) await sink.write(chunk as Buffer);
    await finished;
    await sink.end().catch(() => undefined); // that it fails is not what matters
    expect(readdirSync(outside)).toEqual(["kept"]);
    rmSync(path.join(to, "x"), { recursive: true });
  }
});

test("a path to delete that leaves its tree is nobody's unhandled error", async () => {
  const unhandled: unknown[] = [];
  const note = (cause: unknown) => void unhandled.push(cause);
  process.on("unhandledRejection", note);
  const sink = unpack(to, ["../x"]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  await expect(sink.end()).rejects.toMatchObject({ code: "BAD_REQUEST" });
  process.off("unhandledRejection", note);
  expect(unhandled).toEqual([]);
});

test("names of any kind are told apart, whatever order their parts have", async () => {
  for (const name of ["a/ 1", "a/b/c"]) mkdirSync(path.join(from, name), { recursive: true });
  for (const name of ["a!", "a b", "a\n", "a/ 1/5 2 f"]) writeFileSync(path.join(from, name), "x");
  execFileSync("sleep", ["0.1"]);
  const first = await pass(undefined);
  rmSync(path.join(from, "a b"));
  writeFileSync(path.join(from, "a/ 1/5 2 f"), "longer");
  const second = await pass(first.listing, { live: false });
  expect(second.sent.toSorted()).toEqual([".", "./a/ 1/5 2 f"]);
  expect(Object.keys(describeTree(to))).toEqual(Object.keys(describeTree(from)));
  expect(readFileSync(path.join(to, "a/ 1/5 2 f"), "utf8")).toBe("longer");
});

test("a link in the place of a directory that is being read leads nowhere", async () => {
  const secret = path.join(work, "secret");
  mkdirSync(secret);
  writeFileSync(path.join(secret, "key"), "the host's own");
  mkdirSync(path.join(from, "d"));
  writeFileSync(path.join(from, "d/key"), "mine");
  const { changed } = await compare(undefined, await listed());
  for (const target of [secret, "../secret"]) {
    rmSync(path.join(from, "d"), { recursive: true });
    symlinkSync(target, path.join(from, "d"));
    const { content, finished } = pack(from, changed, { live: true, signal });
    const sink = unpack(to, []);
    for await (const chunk of content) await sink.write(chunk as Buffer);
    await finished;
    await sink.end();
    expect(describeTree(to)["d/key"]).toBeUndefined();
    expect(await namesIn((await listed()).file)).not.toContainEqual(expect.stringContaining("d/key"));
    rmSync(to, { recursive: true });
    mkdirSync(to);
  }
});

test("a listing or an archive that can't be made whole is an error: what it lacks would be lost at the destination", async () => {
  const absent = list(path.join(work, "absent"), path.join(work, "listing"), { signal });
  await expect(absent).rejects.toThrow(expect.objectContaining({ code: "FILES_UNREADABLE" }));
  const packed = pack(path.join(work, "absent"), fileOf(["."]), { live: true, signal });
  packed.content.resume();
  await expect(packed.finished).rejects.toThrow(expect.objectContaining({ code: "FILES_UNREADABLE" }));

  for (let directory = 0; directory < 20_000; directory++) mkdirSync(path.join(from, String(directory)));
  const killed = listed();
  const findOfOurs = 'pkill --signal KILL --parent "$(pgrep --delimiter , --parent $0)" --exact find || true';
  const kill = () => execFileSync("sh", ["-c", findOfOurs, String(process.pid)]);
  const again = setInterval(kill, 5);
  await expect(killed.finally(() => clearInterval(again))).rejects.toThrow(expect.objectContaining({ code: "FILES_UNREADABLE" }));
});

test("60,000 files are listed and compared while the event loop goes on serving", async () => {
  for (let directory = 0; directory < 60; directory++) {
    mkdirSync(path.join(from, String(directory)));
    for (let file = 0; file < 1000; file++) writeFileSync(path.join(from, String(directory), String(file)), "");
  }
  const delay = monitorEventLoopDelay({ resolution: 5 });
  delay.enable();
  const { changed, changedCount, deletedCount } = await compare(undefined, await listed());
  delay.disable();

  expect(delay.max / 1e6).toBeLessThanOrEqual(200);
  expect(changedCount).toBeGreaterThanOrEqual(60_000);
  expect(deletedCount).toBe(0);
  expect(await namesIn(changed)).toHaveLength(changedCount);
}, 60_000);
