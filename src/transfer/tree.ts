/**
 * A directory tree sent while its owner still writes to it, then brought up to date once it is frozen.
 *
 * A pass notes what it saw; the next sends what is new or was touched since. A file counts as touched when its inode's
 * change time moved (no program can set that) or lies after the earlier pass began. A page that a program has mapped
 * and dirtied before that pass could be written again without a change time; hence the sync before each pass, after
 * which the kernel write-protects the page and the next store is noted (Linux, Documentation/filesystems/vfs.rst,
 * page_mkwrite). tmpfs has no write-back, so trees on it are sent whole, after the freeze.
 */
import { lstatSync, readdirSync } from "node:fs";
import { statfs } from "node:fs/promises";
import type { Readable } from "node:stream";
import { execa } from "execa";
import { UmsError } from "../errors.ts";
import type { Sink } from "./channel.ts";
import { confinedTo } from "./confined.ts";

/**
 * A name on Linux is bytes, of no encoding. Here each byte is one character, so that names are strings, and JSON, and
 * nothing is lost of those that aren't UTF-8.
 */
const bytesOf = (name: string) => Buffer.from(name, "latin1");
const below = (root: string, name: string) => Buffer.concat([Buffer.from(`${root}/`), bytesOf(name)]);

/** What one pass saw: for each path below the root, what tells whether it is still the same. */
export type Snapshot = Readonly<{ startedAtMs: number; entries: ReadonlyMap<string, Entry> }>;
type Entry = Readonly<{ inode: bigint; changedNs: bigint; type: bigint }>;

/** Change times come from a clock that ticks; two changes within a tick may look like one. */
const tickMs = 20;
const typeMask = 0o170000n;
const tmpfsMagic = 0x01021994;

export const isTmpfs = async (directory: string) => (await statfs(directory)).type === tmpfsMagic;

/**
 * Makes later stores to mapped files visible in their change times.
 * @returns when it began, in milliseconds: a page may be dirtied again before the scan that follows
 */
export async function settle(root: string): Promise<number> {
  const startedAtMs = Date.now();
  await execa("sync", ["--file-system", root], { stdin: "ignore", timeout: 120_000 });
  return startedAtMs;
}

/** @param startedAtMs what {@link settle} returned; a change after it makes the next pass send the file again */
export function scan(root: string, startedAtMs = Date.now()): Snapshot {
  const entries = new Map<string, Entry>();
  const visit = (relative: string) => {
    let stat;
    try {
      stat = lstatSync(below(root, relative), { bigint: true });
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === "ENOENT") return; // gone while we looked: the next pass sees it so
      throw cause;
    }
    entries.set(relative, { inode: stat.ino, changedNs: stat.ctimeNs, type: stat.mode & typeMask });
    if (!stat.isDirectory()) return;
    for (const name of readNames(below(root, relative))) visit(relative === "." ? `./${name}` : `${relative}/${name}`);
  };
  visit(".");
  return { startedAtMs, entries };
}

function readNames(directory: Buffer): string[] {
  try {
    return readdirSync(directory, "latin1");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT" || (cause as NodeJS.ErrnoException).code === "ENOTDIR") return [];
    throw cause;
  }
}

/** Paths to send and paths to delete, so that a copy made at `before` becomes what `now` saw. */
export function changes(before: Snapshot | undefined, now: Snapshot): { changed: string[]; deleted: string[] } {
  if (!before) return { changed: [...now.entries.keys()], deleted: [] };
  const since = BigInt(before.startedAtMs - tickMs) * 1_000_000n;
  const changed: string[] = [];
  const deleted: string[] = [];
  for (const [name, entry] of now.entries) {
    const old = before.entries.get(name);
    if (!old || old.inode !== entry.inode || old.changedNs !== entry.changedNs || entry.changedNs >= since) changed.push(name);
    if (old && old.type !== entry.type) deleted.push(name);
  }
  for (const name of before.entries.keys()) if (!now.entries.has(name)) deleted.push(name);
  return { changed, deleted };
}

const attributes = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls"];

/** An archive of just these paths. While the tree is written to, what vanishes or changes is left to the next pass. */
export function pack(
  root: string,
  paths: readonly string[],
  { live, signal }: { live: boolean; signal: AbortSignal },
): { content: Readable; finished: Promise<void> } {
  const tar = execa(
    "tar",
    [
      "--create",
      "--file=-",
      "--format=posix",
      "--sparse",
      "--no-recursion",
      ...attributes,
      `--directory=${root}`,
      "--null",
      "--verbatim-files-from",
      "--files-from=-",
    ],
    {
      input: bytesOf(paths.map((name) => `${name}\0`).join("")),
      buffer: { stdout: false },
      encoding: "buffer",
      reject: false,
      cancelSignal: signal,
      env: { LC_ALL: "C" },
    },
  );
  const finished = tar.then(({ exitCode, stderr, isCanceled }) => {
    if (isCanceled) signal.throwIfAborted();
    const message = Buffer.from(stderr).toString("utf8");
    // 1: something changed while it was read; 2 with "Cannot stat" or "open": it was deleted. Sockets CRIU makes itself.
    const tolerated = exitCode === 0 || (live && (exitCode === 1 || (exitCode === 2 && onlyVanished(message))));
    if (!tolerated)
      throw new UmsError(
        "FILES_UNREADABLE",
        `The service's files could not be read: ${message.trim().split("\n")[0] ?? `tar ended with ${exitCode}`}`,
      );
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
  const [confine, ...confined] = confinedTo(root);
  const tar = execa(
    confine,
    [...confined, "tar", "--extract", "--file=-", "--preserve-permissions", "--same-owner", "--delay-directory-restore", ...attributes],
    {
      stdin: "pipe",
      reject: false,
      env: { LC_ALL: "C" },
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
      await ready;
      stdin.end();
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
    env: { LC_ALL: "C" },
  });
  if (exitCode !== 0) throw new UmsError("FILES_UNWRITABLE", `Files could not be deleted: ${stderr.trim().split("\n")[0] ?? ""}`);
}
