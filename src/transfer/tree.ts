/**
 * A directory tree sent while its owner still writes to it, then brought up to date once it is frozen.
 *
 * A pass notes what it saw; the next sends what is new or was touched since. A file counts as touched when its inode's
 * change time moved (no program can set that) or lies after the earlier pass began. A page that a program has mapped
 * and dirtied before that pass could be written again without a change time; hence the sync before each pass, after
 * which the kernel write-protects the page and the next store is noted (Linux, Documentation/filesystems/vfs.rst,
 * page_mkwrite). tmpfs has no write-back, so trees on it are sent whole, after the freeze.
 */
import { open, rm, statfs } from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { setImmediate } from "node:timers/promises";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import type { Sink } from "./channel.ts";
import { confinedTo, endWith, ownGroup, readingOnly } from "./confined.ts";
import { fileSink } from "./sink.ts";

/**
 * A name on Linux is bytes, of no encoding. Here each byte is one character, so that names are strings, and JSON, and
 * nothing is lost of those that aren't UTF-8.
 */
const bytesOf = (name: string) => Buffer.from(name, "latin1");

/** What one pass saw: a file with a record for each path below the root, in the order of the paths. */
export type Listing = Readonly<{ startedAtMs: number; file: string }>;

/** What a later pass has to do: both are files of names, each of which ends with a NUL. */
export type Changes = Readonly<{ changed: string; deleted: string; changedCount: number; deletedCount: number }>;

/** Change times come from a clock that ticks; two changes within a tick may look like one. */
const tickMs = 20;
const tmpfsMagic = 0x01021994;
const listMs = 600_000;
const C = { LC_ALL: "C" };

export const isTmpfs = async (directory: string) => (await statfs(directory)).type === tmpfsMagic;

/**
 * Makes later stores to mapped files visible in their change times.
 * @returns when it began, in milliseconds: a page may be dirtied again before the listing that follows
 */
export async function settle(root: string): Promise<number> {
  const startedAtMs = Date.now();
  await execa("sync", ["--file-system", root], { stdin: "ignore", timeout: 120_000 });
  return startedAtMs;
}

/** Between a path and what is known of it: no path has two slashes in a row, so that records sort as their paths do. */
const separator = "//";

/**
 * Lists a tree into a file, apart from this process: a tree may have a million names.
 * @param options.startedAtMs what {@link settle} returned; a change after it makes the next pass send the file again
 * @throws UmsError FILES_UNREADABLE
 */
export async function list(
  root: string,
  file: string,
  { startedAtMs = Date.now(), signal }: { startedAtMs?: number; signal: AbortSignal },
): Promise<Listing> {
  const [confine, ...confinement] = readingOnly(root);
  const unsorted = `${file}.unsorted`;
  const limited = AbortSignal.any([signal, AbortSignal.timeout(listMs)]);
  const run = async (command: string, args: readonly string[], output?: string) => {
    const stdout = output === undefined ? ("ignore" as const) : { file: output };
    const running = execa(command, args, { ...ownGroup, stdin: "ignore", stdout, reject: false, env: C });
    endWith(running, limited);
    const { exitCode, stderr, shortMessage } = await running;
    limited.throwIfAborted();
    return { exitCode, stderr, why: stderr || (shortMessage ?? "") };
  };
  const found = await run(confine, [...confinement, "find", ".", "-printf", `%p${separator}%i %C@ %y\\0`], unsorted);
  // What has gone while we looked is seen so by the next pass. All else, a find that was killed too, leaves a listing that
  // ends early, and what it lacks would be deleted at the destination.
  const gone = /^find: .*: (No such file or directory|Not a directory)$/;
  const worst = found.stderr.split("\n").find((line) => line !== "" && !gone.test(line));
  if (worst !== undefined || (found.exitCode !== 0 && (found.exitCode !== 1 || found.stderr === ""))) throw unreadable(worst ?? found.why);
  const sorting = ["--zero-terminated", "--buffer-size=16M", `--temporary-directory=${path.dirname(file)}`, `--output=${file}`];
  const sorted = await run("sort", [...sorting, unsorted]);
  if (sorted.exitCode !== 0) throw unreadable(sorted.why);
  await rm(unsorted);
  return { startedAtMs, file };
}

const unreadable = (why: string) => new UmsError("FILES_UNREADABLE", `The service's files could not be read: ${why.trim().slice(0, 300)}`);

const readAtOnce = 64 << 10;

/** The records of a file, each of which ends with a NUL, some at a time. All of it passes through one buffer: it may be large. */
export async function* readRecords(file: string): AsyncGenerator<string[], void, undefined> {
  const buffer = Buffer.allocUnsafe(readAtOnce);
  let rest = "";
  await using opened = await open(file);
  for (;;) {
    const { bytesRead } = await opened.read(buffer, 0, readAtOnce);
    if (bytesRead === 0) return;
    const records = (rest + buffer.toString("latin1", 0, bytesRead)).split("\0");
    rest = records.pop() ?? "";
    yield records;
  }
}

/** The records of a listing, one at a time; only where a piece of the file has been used up it is waited for. */
type Cursor = { record: string | undefined; at: number; next(): Promise<void> | undefined };

async function openListing(file: string): Promise<Cursor> {
  const pieces = readRecords(file);
  let piece: readonly string[] = [];
  let index = 0;
  const take = () => {
    cursor.record = piece[index++];
    cursor.at = cursor.record === undefined ? 0 : cursor.record.indexOf(separator);
  };
  const refill = async () => {
    do {
      const more = await pieces.next();
      [piece, index] = [more.done === true ? [] : more.value, 0];
      if (more.done === true) break;
    } while (piece.length === 0);
    take();
  };
  const cursor: Cursor = {
    record: undefined,
    at: 0,
    next() {
      if (index >= piece.length) return refill();
      take();
      return undefined;
    },
  };
  await cursor.next();
  return cursor;
}

/** As long as records are compared, others are served, too. */
const comparedAtOnce = 5_000;

/** Names to send and names to delete, so that a copy made at `before` becomes what `now` saw. Written beside `now`'s own file. */
export async function compare(before: Listing | undefined, now: Listing): Promise<Changes> {
  const [changed, deleted] = [namesInto(`${now.file}.changed`), namesInto(`${now.file}.deleted`)];
  const since = before === undefined ? 0 : (before.startedAtMs - tickMs) / 1_000;
  // A record is: path, separator, inode, change time, type.
  const isYoung = (record: string, at: number) => {
    const from = record.indexOf(" ", at) + 1;
    return Number(record.slice(from, record.indexOf(" ", from))) >= since;
  };
  const [news, olds] = [await openListing(now.file), before === undefined ? undefined : await openListing(before.file)];
  const keyOf = ({ record = "", at }: Cursor) => record.slice(0, at + separator.length);
  const nameOf = ({ record = "", at }: Cursor) => record.slice(0, at);
  for (let compared = 1; news.record !== undefined; compared++) {
    if (compared % comparedAtOnce === 0) await setImmediate();
    const key = keyOf(news);
    while (olds?.record !== undefined && keyOf(olds) < key) {
      await deleted.add(nameOf(olds));
      await olds.next();
    }
    const isKnown = olds?.record !== undefined && keyOf(olds) === key;
    if (olds?.record !== news.record || isYoung(news.record, news.at)) {
      const waits = changed.add(nameOf(news));
      if (waits) await waits;
    }
    if (olds && isKnown) {
      if (olds.record?.at(-1) !== news.record.at(-1)) await deleted.add(nameOf(olds));
      const waits = olds.next();
      if (waits) await waits;
    }
    const waits = news.next();
    if (waits) await waits;
  }
  for (; olds?.record !== undefined; await olds.next()) await deleted.add(nameOf(olds));
  const [changedCount, deletedCount] = await Promise.all([changed.end(), deleted.end()]);
  return { changed: `${now.file}.changed`, deleted: `${now.file}.deleted`, changedCount, deletedCount };
}

/** @returns also how many names have been added, when all of them are written */
function namesInto(file: string): { add(name: string): Promise<void> | undefined; end(): Promise<number> } {
  const sink = fileSink(file, "w");
  let gathered: string[] = [];
  let count = 0;
  const write = () => {
    const text = gathered.map((name) => `${name}\0`).join("");
    gathered = [];
    return text === "" ? undefined : sink.write(bytesOf(text));
  };
  return {
    add(name) {
      count++;
      gathered.push(name);
      return gathered.length < namesAtOnce ? undefined : write();
    },
    async end() {
      await write();
      await sink.end();
      return count;
    },
  };
}
const namesAtOnce = 1_000;

const attributes = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"];

/** An archive of just the paths that a file names. While the tree is written to, what vanishes or changes is left to the next pass. */
export function pack(
  root: string,
  names: string,
  { live, signal }: { live: boolean; signal: AbortSignal },
): { content: Readable; finished: Promise<void> } {
  const [confine, ...confinement] = readingOnly(root);
  const tar = execa(
    confine,
    [
      ...confinement,
      "tar",
      "--create",
      "--file=-",
      "--format=posix",
      "--sparse",
      "--no-recursion",
      ...attributes,
      "--null",
      "--verbatim-files-from",
      "--files-from=-",
    ],
    {
      stdin: { file: names },
      buffer: { stdout: false },
      encoding: "buffer",
      ...ownGroup,
      reject: false,
      env: C,
    },
  );
  endWith(tar, signal);
  const finished = tar.then(({ exitCode, stderr }) => {
    signal.throwIfAborted();
    const message = Buffer.from(stderr).toString("utf8");
    // 1: something changed while it was read; 2 with "Cannot stat" or "open": it was deleted. Sockets CRIU makes itself.
    // bwrap ends with 1, too, where tar could not even start.
    const changed = exitCode === 1 && !/^bwrap: /m.test(message);
    const tolerated = exitCode === 0 || (live && (changed || (exitCode === 2 && onlyVanished(message))));
    if (!tolerated) throw unreadable(message.trim().split("\n")[0] ?? `tar ended with ${exitCode}`);
  });
  finished.catch(() => undefined); // the reader of `content` asks for it
  return { content: tar.stdout, finished };
}

const onlyVanished = (message: string) =>
  message
    .split("\n")
    .filter(Boolean)
    .every((line) =>
      /No such file or directory|file changed as we read it|File removed before we read it|socket ignored|shrank|Exiting with failure|Not a directory/.test(
        line,
      ),
    );

/** Applies one pass: deletes, then unpacks what is written to the sink. Both leave everything outside of the tree alone. */
export function unpack(root: string, deleted: readonly string[]): Sink {
  const ready = remove(root, deleted);
  ready.catch(() => undefined); // met at the first piece, or at the end
  const [confine, ...confined] = confinedTo(root);
  const tar = execa(
    confine,
    [...confined, "tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", "--delay-directory-restore", ...attributes],
    {
      stdin: "pipe",
      reject: false,
      env: C,
    },
  );
  const { stdin } = tar;
  stdin.on("error", () => undefined); // the exit code says why
  let written = false;
  return {
    write(chunk) {
      const go = () =>
        stdin.write(chunk) || stdin.destroyed
          ? undefined
          : new Promise<void>((resolve) => void stdin.once("drain", resolve).once("close", resolve));
      if (written) return go();
      written = true;
      return ready.then(go);
    },
    async end() {
      // Also where that has failed, or tar would wait for ever.
      await ready.finally(() => stdin.end());
      const { exitCode, stderr } = await tar;
      if (written && exitCode !== 0)
        throw new UmsError("FILES_UNWRITABLE", `The service's files could not be written: ${stderr.trim().split("\n")[0] ?? ""}`);
    },
  };
}

async function remove(root: string, deleted: readonly string[]): Promise<void> {
  if (deleted.some((name) => name === "." || name.startsWith("/") || name.split("/").includes("..")))
    throw new UmsError("BAD_REQUEST", "A path to delete leaves its tree.");
  if (deleted.length === 0) return;
  const [confine, ...confined] = confinedTo(root);
  const { exitCode, stderr } = await execa(confine, [...confined, "xargs", "--null", "rm", "--recursive", "--force", "--"], {
    input: bytesOf(deleted.map((name) => `${name}\0`).join("")),
    reject: false,
    env: C,
  });
  if (exitCode !== 0) throw new UmsError("FILES_UNWRITABLE", `Files could not be deleted: ${stderr.trim().split("\n")[0] ?? ""}`);
}
