/** Where the pieces of a stream can go, beside the tree of tree.ts. */
import { createWriteStream } from "node:fs";
import type { Sink } from "./channel.ts";

/** Tells how many bytes pass. */
export function counted(sink: Sink, count: (bytes: number) => void): Sink {
  return {
    write(chunk) {
      count(chunk.length);
      return sink.write(chunk);
    },
    end: () => sink.end(),
  };
}

export function fileSink(file: string, flags: "w" | "a"): Sink {
  const stream = createWriteStream(file, { flags });
  const done = new Promise<void>((resolve, reject) => stream.once("finish", resolve).once("error", reject));
  done.catch(() => undefined); // met at the end
  return {
    write: (chunk) =>
      stream.write(chunk) ? undefined : Promise.race([done, new Promise<void>((resolve) => void stream.once("drain", resolve))]),
    end() {
      stream.end();
      return done;
    },
  };
}
