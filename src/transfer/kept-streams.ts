/** Streams kept in files, to be sent over a data connection later, as often as wanted. */
import { createReadStream } from "node:fs";
import path from "node:path";
import type { KeptStream } from "../protocol/snapshot.ts";
import type { Sender } from "./channel.ts";
import type { StreamSender } from "./files.ts";
import { fileSink } from "./sink.ts";

export type StreamStore = StreamSender &
  Readonly<{
    /** In the order in which they came; whole once each `stream` has resolved. */
    kept(): readonly KeptStream[];
  }>;

/** @param directory is there already, and empty */
export function createStreamStore(directory: string): StreamStore {
  const kept: KeptStream[] = [];
  return {
    async stream(what, content) {
      const file = String(kept.length);
      kept.push(content ? { what, file } : { what });
      if (!content) return;
      const sink = fileSink(path.join(directory, file), "w");
      try {
        for await (const chunk of content) await sink.write(chunk as Buffer);
      } finally {
        await sink.end();
      }
    },
    flush: async () => undefined, // a later `sync` makes them durable
    kept: () => kept,
  };
}

/** At most so much of a file is in memory at once. */
const pieceBytes = 1 << 20;

/** Sends what {@link createStreamStore} has kept in that directory, in the same order. */
export async function sendKept(sender: Pick<Sender, "stream">, directory: string, streams: readonly KeptStream[]): Promise<void> {
  for (const { what, file } of streams) {
    const content = file === undefined ? undefined : createReadStream(path.join(directory, file), { highWaterMark: pieceBytes });
    await sender.stream(what, content);
  }
}
