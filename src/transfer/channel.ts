/**
 * One data connection from the source's interface to the destination's: frames in one direction, replies in the other.
 * A frame is: length of its header and of its payload (both 32 bit, big endian), the header as JSON, the payload.
 * Its payload may be a piece of a file, written where the header says, or of a stream that several frames make up.
 */
import type { Duplex, Readable } from "node:stream";
import { once } from "node:events";
import { readSync } from "node:fs";
import { isIPv4, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { type Static, Type } from "typebox";
import { Value } from "typebox/value";
import { UmsError } from "../errors.ts";

const Stream = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
/** What a frame's header says. */
const Header = Type.Union([
  Type.Object({ kind: Type.Literal("memory"), file: Type.String({ maxLength: 512 }), offset: Stream }),
  Type.Object({ kind: Type.Literal("open"), stream: Stream, what: Type.Unknown() }),
  Type.Object({ kind: Type.Union([Type.Literal("data"), Type.Literal("end")]), stream: Stream }),
  Type.Object({ kind: Type.Literal("flush") }),
]);
type Header = Static<typeof Header>;

/** Node's TLS does best with large writes; a few in flight keep both cores busy and the memory small. */
const bufferBytes = 1 << 20;
const buffersInFlight = 6;
/** The longest is that of a tree, with the names that have gone; see {@link namesLength}. */
const maxHeaderBytes = 1 << 20;
/** Characters of names that one stream may tell: as JSON, each takes six bytes at most. */
export const namesLength = 128 << 10;
const maxReplyBytes = 64 << 10;
/** Streams that are open at the same time; as many more may still be at work on their end. */
const maxStreams = 8;
const replyMs = 2_000;

export type Sender = Readonly<{
  /** Sends a part of a file as memory image. Resolves when it is handed to the connection. */
  memory(part: { file: string; descriptor: number; from: number; to: number }): Promise<void>;
  stream(what: unknown, content: Readable | undefined): Promise<void>;
  /** Resolves when the receiver has stored all that was sent before. @throws what it met */
  flush(timeoutMs: number): Promise<void>;
  bytesSent(): number;
  /** Where the receiver is, if that is an address of IPv4: it has proved who it is. */
  peerAddress: string | undefined;
  close(): void;
}>;

export function createSender(socket: Duplex): Sender {
  const free: Buffer[] = Array.from({ length: buffersInFlight }, () => Buffer.allocUnsafeSlow(bufferBytes));
  const waiting: ((buffer: Buffer) => void)[] = [];
  let failure: Error | undefined;
  let bytes = 0;
  let streams = 0;
  let replies = "";
  const flushes: { resolve: () => void; reject: (cause: Error) => void }[] = [];

  const fail = (cause: Error) => {
    failure ??= cause;
    for (const { reject } of flushes.splice(0)) reject(failure);
    for (const take of waiting.splice(0)) take(Buffer.alloc(0));
  };
  socket.on("error", (cause) => fail(new UmsError("SITE_UNREACHABLE", "The data connection to the other site broke.", { cause })));
  // One that has ended its half confirms nothing any more.
  for (const event of ["end", "close"])
    socket.on(event, () => fail(new UmsError("SITE_UNREACHABLE", "The other site closed the data connection.")));
  socket.on("data", (chunk: Buffer) => {
    if (failure) return;
    const lines = (replies + chunk.toString("utf8")).split("\n");
    replies = lines.pop() ?? "";
    for (const line of lines) hear(line);
    if (replies.length > maxReplyBytes) hear(replies);
  });
  /** Whatever the other site says, it ends this connection at most. */
  const hear = (line: string) => {
    const reply = readReply(line);
    if (reply?.ok === true) flushes.shift()?.resolve();
    else {
      const code = diskErrors.find((known) => known === reply?.code) ?? "PEER_FAILED";
      fail(new UmsError(code, `The other site could not store what was sent: ${reply?.message ?? "it did not say why"}`));
      socket.destroy();
    }
  };

  const throwIfFailed = () => {
    if (failure) throw failure;
  };
  const take = async (): Promise<Buffer> => {
    throwIfFailed();
    const buffer = free.pop() ?? (await new Promise<Buffer>((resolve) => waiting.push(resolve)));
    throwIfFailed();
    return buffer;
  };
  const give = (buffer: Buffer) => {
    const next = waiting.shift();
    if (next) next(buffer);
    else free.push(buffer);
  };
  const head = (header: Header, payloadBytes: number) => {
    const json = Buffer.from(JSON.stringify(header));
    const prefix = Buffer.allocUnsafe(8);
    prefix.writeUInt32BE(json.length, 0);
    prefix.writeUInt32BE(payloadBytes, 4);
    return Buffer.concat([prefix, json]);
  };
  const frame = async (header: Header, payload?: Buffer): Promise<void> => {
    throwIfFailed();
    socket.write(head(header, payload?.length ?? 0));
    if (!payload) return;
    bytes += payload.length;
    if (!socket.write(payload)) await Promise.race([once(socket, "drain"), once(socket, "close")]);
    throwIfFailed();
  };

  return {
    async memory({ file, descriptor, from, to }) {
      for (let offset = from; offset < to;) {
        const buffer = await take();
        const length = readSync(descriptor, buffer, 0, Math.min(bufferBytes, to - offset), offset);
        if (length === 0) throw new UmsError("INTERNAL", `The memory image ${file} became shorter while it was sent.`);
        socket.cork();
        socket.write(head({ kind: "memory", file, offset }, length));
        socket.write(length === bufferBytes ? buffer : buffer.subarray(0, length), () => give(buffer));
        socket.uncork();
        offset += length;
        bytes += length;
      }
    },
    async stream(what, content) {
      const stream = streams++;
      await frame({ kind: "open", stream, what });
      if (content) for await (const chunk of content) await frame({ kind: "data", stream }, chunk as Buffer);
      await frame({ kind: "end", stream });
    },
    async flush(timeoutMs) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      flushes.push({ resolve, reject });
      frame({ kind: "flush" }).catch(reject);
      const limit = new AbortController();
      try {
        await Promise.race([
          promise,
          sleep(timeoutMs, undefined, { signal: limit.signal }).then(() => {
            throw new UmsError("TIMED_OUT", `The other site did not confirm what was sent within ${timeoutMs} ms.`);
          }),
        ]);
      } finally {
        limit.abort();
      }
    },
    bytesSent: () => bytes,
    peerAddress: peerAddressOf(socket),
    close() {
      // Before the socket says that it is closed: whoever waits for it has to hear of it all the same.
      fail(new UmsError("CANCELLED", "The data connection was closed."));
      socket.end();
      socket.destroy();
    },
  };
}

function peerAddressOf(socket: Duplex): string | undefined {
  const address = (socket as Partial<Socket>).remoteAddress?.replace(/^::ffff:/, "");
  return address !== undefined && isIPv4(address) ? address : undefined;
}

const Reply = Type.Object({
  ok: Type.Boolean(),
  code: Type.Optional(Type.String({ maxLength: 64 })),
  message: Type.Optional(Type.String({ maxLength: 4_000 })),
});

function readReply(line: string): Static<typeof Reply> | undefined {
  const reply = readJson(line);
  return Value.Check(Reply, reply) ? reply : undefined;
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Where the pieces of a stream go. `write` may return a promise to slow the connection down. */
export type Sink = Readonly<{ write(chunk: Buffer): Promise<void> | undefined; end(): Promise<void> }>;

export type Receiver = Readonly<{
  memory(part: { file: string; offset: number }, chunk: Buffer): void;
  open(what: unknown): Sink;
  /** Called at each flush, after all streams that ended before have been stored. */
  flushed(): Promise<void>;
}>;

/**
 * Stores what comes until the connection ends. What goes wrong is told to the sender, and ends the connection.
 * @param first bytes that came with the connection's opening
 */
export async function receive(socket: Duplex, first: Buffer, receiver: Receiver): Promise<void> {
  const sinks = new Map<number, Sink>();
  const ending: Promise<void>[] = [];
  let pending: Buffer = first;
  let header: Header | undefined;
  let payloadLeft = 0;
  let position = 0;

  /** Consumes what it can. @returns a promise where the consumer wants time */
  const consume = (): Promise<void> | undefined => {
    while (true) {
      if (header === undefined) {
        if (pending.length < 8) return undefined;
        const headerBytes = pending.readUInt32BE(0);
        if (headerBytes > maxHeaderBytes) throw new UmsError("BAD_REQUEST", "A frame's header is too long.");
        if (pending.length < 8 + headerBytes) return undefined;
        payloadLeft = pending.readUInt32BE(4);
        const read = readJson(pending.toString("utf8", 8, 8 + headerBytes));
        if (!Value.Check(Header, read)) throw new UmsError("BAD_REQUEST", "A frame's header is not of the documented form.");
        header = read;
        pending = pending.subarray(8 + headerBytes);
        position = header.kind === "memory" ? header.offset : 0;
      }
      if (payloadLeft > 0) {
        if (pending.length === 0) return undefined;
        const piece = pending.length <= payloadLeft ? pending : pending.subarray(0, payloadLeft);
        pending = pending.subarray(piece.length);
        payloadLeft -= piece.length;
        const slow = payload(header, piece);
        if (slow) return slow;
        if (payloadLeft > 0) continue;
      }
      const finished = header;
      header = undefined;
      const slow = complete(finished);
      if (slow) return slow;
    }
  };
  const payload = (of: Header, piece: Buffer): Promise<void> | undefined => {
    if (of.kind === "memory") {
      receiver.memory({ file: of.file, offset: position }, piece);
      position += piece.length;
      return undefined;
    }
    if (of.kind !== "data") throw new UmsError("BAD_REQUEST", `A frame of kind ${of.kind} carries a payload.`);
    const sink = sinks.get(of.stream);
    if (!sink) throw new UmsError("BAD_REQUEST", "A frame belongs to no open stream.");
    return sink.write(piece);
  };
  const complete = (of: Header): Promise<void> | undefined => {
    if (of.kind === "open") {
      if (sinks.has(of.stream) || sinks.size >= maxStreams) throw new UmsError("BAD_REQUEST", "A stream is open already, or too many are.");
      sinks.set(of.stream, receiver.open(of.what));
    }
    if (of.kind === "end") {
      const sink = sinks.get(of.stream);
      sinks.delete(of.stream);
      if (sink) {
        const ended = sink.end();
        ended.catch(() => undefined); // met again at the flush
        ending.push(ended);
      }
      // A stream may cost processes until it has ended.
      if (ending.length >= maxStreams) return Promise.all(ending.splice(0)).then(() => undefined);
    }
    if (of.kind === "flush")
      return Promise.all(ending.splice(0))
        .then(() => receiver.flushed())
        .then(() => void socket.write('{"ok":true}\n'));
    return undefined;
  };

  const ended = Promise.withResolvers<void>();
  /** Consumes until all is consumed; while somebody wants time, the connection is held back. */
  const advance = () => {
    try {
      const slow = consume();
      if (!slow) return;
      socket.pause();
      slow.then(
        () => {
          socket.resume();
          advance();
        },
        (cause: unknown) => ended.reject(cause as Error),
      );
    } catch (cause) {
      ended.reject(cause);
    }
  };
  try {
    socket.on("data", (chunk: Buffer) => {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      if (!socket.isPaused()) advance(); // otherwise whoever wanted time goes on with it
    });
    socket.once("end", ended.resolve).once("error", ended.reject).once("close", ended.resolve);
    advance();
    await ended.promise;
  } catch (cause) {
    const code = isFull(cause) ? "NO_ROOM" : cause instanceof UmsError ? cause.code : undefined;
    const message = (cause instanceof Error ? cause.message : String(cause)).slice(0, 4_000);
    const reply = `${JSON.stringify({ ok: false, code, message })}\n`;
    await refuse(socket, reply);
    throw cause;
  } finally {
    for (const sink of sinks.values()) void sink.end().catch(() => undefined);
  }
}

/** A last word. Closing a socket with bytes nobody has read resets it (RFC 2525, 2.17), and the word may be lost with it. */
async function refuse(socket: Duplex, reply: string): Promise<void> {
  if (socket.destroyed) return;
  socket.removeAllListeners("data").resume();
  socket.end(reply);
  const limit = new AbortController();
  const closed = once(socket, "close", { signal: limit.signal }).catch(() => undefined);
  await Promise.race([closed, sleep(replyMs, undefined, { signal: limit.signal }).catch(() => undefined)]);
  limit.abort();
}

/** What a person can cure at the other site. */
const diskErrors = ["NO_ROOM", "FILES_UNWRITABLE"] as const;

const isFull = (cause: unknown) => cause instanceof Error && "code" in cause && (cause.code === "ENOSPC" || cause.code === "EDQUOT");
