/** What a source sends of a frozen service: its memory while it is dumped, and beside that what its files have changed. */
import type { Sender } from "../transfer/channel.ts";
import type { FileSender, Tree } from "../transfer/files.ts";
import { sendWhileDumped } from "../transfer/memory.ts";

export type FrozenService = Readonly<{
  /** Dumped one after the other, each into its own directory. */
  containers: readonly Readonly<{
    /** Where the service has several. */
    name?: string;
    imageDirectory: string;
    /** Settles when nothing is written to the directory any more. */
    dump(): Promise<void>;
  }>[];
  /** Called when all are dumped. */
  dumped?(): Promise<void>;
  trees: readonly Tree[];
  /** Called last, so that the engine's monitor has had time to write what the service said. */
  sendLogs(): Promise<void>;
}>;

/** Milliseconds that the parts of a step took. */
export type Took = (part: string, milliseconds: number) => void;

/**
 * Resolves when the destination has all of it.
 * @param options.giveUp called with the first error: whoever sends ends what it waits for
 * @throws that error, once no dump is at work and none will be: one that began after an undo's thaw would freeze the service for good
 */
export async function sendFrozen(
  { containers, dumped = () => Promise.resolve(), trees, sendLogs }: FrozenService,
  {
    data,
    files,
    flushMs,
    took,
    giveUp,
    signal,
  }: { data: Sender; files: FileSender; flushMs: number; took: Took; giveUp: (cause: unknown) => void; signal: AbortSignal },
): Promise<void> {
  const timed = async (part: string, action: Promise<void>): Promise<void> => {
    const startedAt = performance.now();
    try {
      await action;
    } finally {
      took(part, performance.now() - startedAt);
    }
  };
  const memory = async () => {
    for (const { name = "", imageDirectory, dump } of containers) {
      signal.throwIfAborted();
      await sendWhileDumped(data, imageDirectory, timed(`dump ${name}`.trim(), dump()), { under: name });
    }
    signal.throwIfAborted();
    await dumped();
  };
  const changes = async () => {
    for (const tree of trees) await files.tree(data, tree, { live: false, signal });
  };
  const both = [timed("memory", memory()), timed("files", changes())];
  await Promise.all(both).catch(async (cause: unknown) => {
    giveUp(cause);
    await Promise.allSettled(both);
    throw cause;
  });
  await timed("log", sendLogs());
  await timed("flush", data.flush(flushMs));
}
