/** The files of a service sent over a data connection: each pass sends what changed since the one before. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import type { Sender } from "./channel.ts";
import { changes, isTmpfs, pack, scan, settle, type Snapshot } from "./tree.ts";

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

/** What was sent before is known to one sender for as long as it lives, and belongs to one connection. */
export function createFileSender(): FileSender {
  const snapshots = new Map<string, Snapshot>();
  const logsSent = new Map<string, number>();

  const sender: FileSender = {
    async tree(data, { tree, root }, { live, signal, rootToo = false }) {
      const now = scan(root, live ? await settle(root) : undefined);
      const { changed, deleted } = changes(snapshots.get(tree), now);
      snapshots.set(tree, now);
      if (rootToo && !changed.includes(".")) changed.push(".");
      if (changed.length === 0 && deleted.length === 0) return;
      if (changed.length === 0) return data.stream({ kind: "tree", tree, deleted }, undefined);
      const { content, finished } = pack(root, changed, { live, signal });
      await data.stream({ kind: "tree", tree, deleted }, content);
      await finished;
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

/** Trees that can be sent while the service writes to them, and those that can't: tmpfs has no write-back (tree.ts). */
export async function byKind(trees: readonly Tree[]): Promise<{ early: Tree[]; late: Tree[] }> {
  const onTmpfs = await Promise.all(trees.map(({ root }) => isTmpfs(root)));
  return { early: trees.filter((_, index) => !onTmpfs[index]), late: trees.filter((_, index) => onTmpfs[index]) };
}
