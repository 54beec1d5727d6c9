/** The files of a service sent over a data connection: each pass sends what changed since the one before. */
import { createReadStream } from "node:fs";
import { appendFile, mkdir, rm, stat } from "node:fs/promises";
import path from "node:path";
import { namesLength, type Sender } from "./channel.ts";
import { compare, isTmpfs, list, type Listing, pack, readRecords, settle } from "./tree.ts";

/** A directory tree that moves, and its name in the protocol. */
export type Tree = Readonly<{ tree: string; root: string }>;

/** Live passes go on while they still shrink; the last one should be short, because the next happens in the freeze. */
const maxLivePasses = 5;
const shortPassMs = 300;

/** What takes the files: a data connection, or a store of what is sent later. */
export type StreamSender = Pick<Sender, "stream" | "flush">;

export type FileSender = Readonly<{
  /** Sends what changed since the last pass. `rootToo`: with the root's own owner, mode and times, even where they didn't change. */
  tree(data: StreamSender, tree: Tree, options: { live: boolean; signal: AbortSignal; rootToo?: boolean }): Promise<void>;
  /** Passes over the trees while their owner writes to them, until a pass is short. */
  live(data: StreamSender, trees: readonly Tree[], options: { flushMs: number; signal: AbortSignal }): Promise<void>;
  /** Sends what a log has grown by. */
  log(data: StreamSender, what: object, file: string): Promise<void>;
}>;

/**
 * What was sent before is known to one sender for as long as it lives, and belongs to one connection.
 * @param directory for what it notes; made where it lacks, and its owner's to remove
 */
export function createFileSender(directory: string): FileSender {
  const listings = new Map<string, Listing>();
  let passes = 0;
  const logsSent = new Map<string, number>();

  const sender: FileSender = {
    async tree(data, { tree, root }, { live, signal, rootToo = false }) {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const startedAtMs = live ? await settle(root) : Date.now();
      const before = listings.get(tree);
      const now = await list(root, path.join(directory, `listing-${passes++}`), { startedAtMs, signal });
      listings.set(tree, now);
      const found = await compare(before, now);
      if (before) await rm(before.file);
      const changedCount = found.changedCount + (rootToo ? 1 : 0);
      if (rootToo) await appendFile(found.changed, ".\0");
      try {
        if (changedCount + found.deletedCount === 0) return;
        const last = await sendAllButTheLast(data, tree, found.deleted);
        if (changedCount === 0) return await data.stream({ kind: "tree", tree, deleted: last }, undefined);
        const { content, finished } = pack(root, found.changed, { live, signal });
        await data.stream({ kind: "tree", tree, deleted: last }, content);
        await finished;
      } finally {
        for (const file of [found.changed, found.deleted]) await rm(file, { force: true });
      }
    },

    async live(data, trees, { flushMs, signal }) {
      for (let pass = 0; pass < maxLivePasses; pass++) {
        const startedAt = Date.now();
        for (const tree of trees) await sender.tree(data, tree, { live: true, signal });
        await data.flush(flushMs);
        if (pass > 0 && Date.now() - startedAt < shortPassMs) break;
      }
    },

    async log(data, what, file) {
      const sent = logsSent.get(file) ?? 0;
      const size = (await stat(file).catch(() => undefined))?.size ?? 0;
      if (size <= sent) return;
      await data.stream(what, createReadStream(file, { start: sent, end: size - 1 }));
      logsSent.set(file, size);
    },
  };
  return sender;
}

const deletedMs = 120_000;

/** Names that have gone, in streams that are short enough; each is done before the next comes. @returns the last ones, to go with what has changed */
async function sendAllButTheLast(data: StreamSender, tree: string, deleted: string): Promise<string[]> {
  let some: string[] = [];
  let length = 0;
  for await (const names of readRecords(deleted)) {
    for (const name of names) {
      if (length + name.length > namesLength && some.length > 0) {
        await data.stream({ kind: "tree", tree, deleted: some }, undefined);
        await data.flush(deletedMs);
        [some, length] = [[], 0];
      }
      some.push(name);
      length += name.length;
    }
  }
  return some;
}

/** Trees that can be sent while the service writes to them, and those that can't: tmpfs has no write-back (tree.ts). */
export async function byKind(trees: readonly Tree[]): Promise<{ early: Tree[]; late: Tree[] }> {
  const onTmpfs = await Promise.all(trees.map(({ root }) => isTmpfs(root)));
  return { early: trees.filter((_, index) => !onTmpfs[index]), late: trees.filter((_, index) => onTmpfs[index]) };
}
