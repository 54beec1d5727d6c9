/** What comes over a service's data connection, each byte of it counted against what was announced. */
import type { Duplex } from "node:stream";
import { Value } from "typebox/value";
import { UmsError } from "../errors.ts";
import { StreamContent } from "../protocol/conversation.ts";
import { receive, type Sink } from "../transfer/channel.ts";
import { imageSlackBytes, type MemoryStore } from "../transfer/memory.ts";
import { counted } from "../transfer/sink.ts";

/** Bytes that a service is said to have: of its processes' memory, of its files, of its image's layers. */
export type Announced = Readonly<{ memoryBytes: number; fileBytes: number; imageBytes: number }>;

/** How often a service's files go over, at most: in each live pass, and in the freeze; and it may grow meanwhile. */
const filePasses = 8;
const growth = 2;
const fileSlackBytes = 1 << 30;
const logBytes = 1 << 30;
/** What a file or a stream counts for beside its bytes: an empty one takes an inode, or processes. */
const nameBytes = 4 << 10;

/** One is what a source needs; another may follow while the first has not ended yet. */
const maxConnections = 2;

type Kind = "memory" | "files" | "image" | "log";

/** What one service has brought so far, over all its connections, and those that are open. */
export type Allowance = Readonly<{ take(kind: Kind, bytes: number): void; bytes(): number; connections: Set<Duplex> }>;

/** @throws (of `take`) UmsError NO_ROOM once far more comes than was announced */
export function createAllowance({ memoryBytes, fileBytes, imageBytes }: Announced): Allowance {
  const most: Readonly<Record<Kind, number>> = {
    memory: memoryBytes * growth + imageSlackBytes,
    files: fileBytes * filePasses * growth + fileSlackBytes,
    image: imageBytes + imageSlackBytes,
    log: logBytes,
  };
  const taken: Record<Kind, number> = { memory: 0, files: 0, image: 0, log: 0 };
  return {
    take(kind, bytes) {
      taken[kind] += bytes;
      if (taken[kind] > most[kind]) throw new UmsError("NO_ROOM", `Far more comes of the service's ${kind} than was announced.`);
    },
    bytes: () => Object.values(taken).reduce((sum, each) => sum + each, 0),
    connections: new Set(),
  };
}

const kindOf: Readonly<Record<StreamContent["kind"], Kind>> = { tree: "files", image: "image", log: "log" };

/**
 * Stores what comes until the connection ends, or `signal` aborts.
 * @param options.memory where the memory goes; undefined: it is not wanted yet
 * @param options.sinkFor where a stream goes
 * @param options.received called with each piece
 * @param options.flushed called at each flush, when all that came before is stored
 */
export async function receiveService(
  socket: Duplex,
  head: Buffer,
  {
    allowance,
    memory,
    sinkFor,
    received = () => undefined,
    flushed = () => undefined,
    signal,
  }: {
    allowance: Allowance;
    memory: () => MemoryStore | undefined;
    sinkFor: (content: StreamContent) => Sink;
    received?: () => void;
    flushed?: () => void;
    signal: AbortSignal;
  },
): Promise<void> {
  const onAbort = () => socket.destroy();
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  const { connections } = allowance;
  connections.add(socket);
  for (const oldest of [...connections].slice(0, -maxConnections)) oldest.destroy();
  const take = (kind: Kind, bytes: number) => {
    allowance.take(kind, bytes);
    received();
  };
  try {
    await receive(socket, head, {
      memory(part, chunk) {
        const store = memory();
        if (!store) throw new UmsError("PEER_FAILED", "Memory came before its destination was armed.");
        take("memory", chunk.length);
        if (store.write(part, chunk)) take("memory", nameBytes);
      },
      open(what) {
        if (!Value.Check(StreamContent, what)) throw new UmsError("BAD_REQUEST", "A stream's content is not of the documented form.");
        take(kindOf[what.kind], nameBytes);
        return counted(sinkFor(what), (bytes) => take(kindOf[what.kind], bytes));
      },
      async flushed() {
        memory()?.flush();
        flushed();
      },
    });
  } finally {
    connections.delete(socket);
    signal.removeEventListener("abort", onAbort);
  }
}
