import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { duplexPair, Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createSender, receive, type Receiver } from "./channel.ts";
import { openMemoryStore, sendWhileDumped } from "./memory.ts";

let work: string;
beforeEach(() => (work = mkdtempSync(path.join(tmpdir(), "ums-channel-"))));
afterEach(() => rmSync(work, { recursive: true, force: true }));

async function pair(receiver: Receiver) {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const accepted = new Promise<Socket>((resolve) => server.once("connection", resolve));
  const { port } = server.address() as { port: number };
  const near = connect({ host: "127.0.0.1", port });
  const far = await accepted;
  const received = receive(far, Buffer.alloc(0), receiver);
  received.catch(() => undefined);
  return {
    sender: createSender(near),
    near,
    far,
    received,
    [Symbol.dispose]() {
      near.destroy();
      far.destroy();
      server.close();
    },
  };
}

const nothing: Receiver = {
  memory: () => undefined,
  open: () => ({ write: () => undefined, end: async () => undefined }),
  flushed: async () => undefined,
};

test("a directory that grows while it is sent arrives whole", async () => {
  const source = path.join(work, "source");
  const target = path.join(work, "target");
  for (const directory of [source, target]) (await import("node:fs")).mkdirSync(directory);
  const store = openMemoryStore(target);
  using ends = await pair({ ...nothing, memory: (part, chunk) => store.write(part, chunk), flushed: async () => store.flush() });
  const expected: Buffer[] = [];
  const dump = (async () => {
    const descriptor = openSync(path.join(source, "pages-1.img"), "w");
    for (let index = 0; index < 30; index++) {
      const piece = Buffer.alloc(300_000 + index, index);
      expected.push(piece);
      (await import("node:fs")).writeSync(descriptor, piece);
      await sleep(3);
    }
    closeSync(descriptor);
    writeFileSync(path.join(source, "inventory.img"), "last");
  })();
  await sendWhileDumped(ends.sender, source, dump);
  await ends.sender.flush(5000);
  store.close();
  expect(readFileSync(path.join(target, "pages-1.img")).equals(Buffer.concat(expected))).toBe(true);
  expect(readFileSync(path.join(target, "inventory.img"), "utf8")).toBe("last");
});

test("streams and files share the connection without mixing", async () => {
  const streams: Record<string, string> = {};
  using ends = await pair({
    ...nothing,
    open: (what) => ({
      write(chunk) {
        streams[what as string] = (streams[what as string] ?? "") + chunk.toString();
        return sleep(1);
      },
      end: async () => undefined,
    }),
  });
  const many = (letter: string) => Readable.from(Array.from({ length: 200 }, () => Buffer.from(letter.repeat(500))));
  await Promise.all([ends.sender.stream("a", many("a")), ends.sender.stream("b", many("b")), ends.sender.stream("empty", undefined)]);
  await ends.sender.flush(10_000);
  expect(streams).toEqual({ a: "a".repeat(100_000), b: "b".repeat(100_000) });
});

test("streams that are opened and ended at once are at work a few at a time, and each is stored", async () => {
  let atWork = 0;
  let most = 0;
  let stored = 0;
  using ends = await pair({
    ...nothing,
    open: () => {
      most = Math.max(most, ++atWork);
      const end = async () => {
        await sleep(5);
        atWork--;
        stored++;
      };
      return { write: () => undefined, end };
    },
  });
  for (let count = 0; count < 200; count++) await ends.sender.stream("x", undefined);
  await ends.sender.flush(10_000);
  expect(stored).toBe(200);
  expect(most).toBeLessThanOrEqual(16);
});

test("a stream that can't be stored fails what follows it, also before a flush", async () => {
  using ends = await pair({ ...nothing, open: () => ({ write: () => undefined, end: () => Promise.reject(new Error("No space left")) }) });
  for (let count = 0; count < 8; count++) await ends.sender.stream("x", undefined);
  await expect(ends.received).rejects.toThrow("No space left");
  await expect(ends.sender.flush(5000)).rejects.toMatchObject({ code: "PEER_FAILED" });
});

test("what the receiver can't store fails the flush with its reason", async () => {
  using ends = await pair({
    ...nothing,
    open: () => ({ write: () => undefined, end: () => Promise.reject(new Error("No space left on device")) }),
  });
  await ends.sender.stream("x", Readable.from([Buffer.from("x")]));
  await expect(ends.sender.flush(5000)).rejects.toMatchObject({
    code: "PEER_FAILED",
    message: expect.stringContaining("No space left") as string,
  });
});

test("a disk that is full at the receiver is told by its code", async () => {
  const full = Object.assign(new Error("write failed"), { code: "ENOSPC" });
  using ends = await pair({ ...nothing, open: () => ({ write: () => undefined, end: () => Promise.reject(full) }) });
  await ends.sender.stream("x", Readable.from([Buffer.from("x")]));
  await expect(ends.sender.flush(5000)).rejects.toMatchObject({ code: "NO_ROOM" });
});

test("the receiver's reason arrives also while more is being sent than it has read", async () => {
  const full = Object.assign(new Error("write failed"), { code: "ENOSPC" });
  const file = path.join(work, "pages-1.img");
  writeFileSync(file, Buffer.alloc(32 << 20));
  const descriptor = openSync(file, "r");
  using ends = await pair({
    ...nothing,
    memory: () => {
      throw full;
    },
  });
  void ends.received.catch(() => ends.far.destroy());
  // A sender that is too busy to read at once.
  ends.near.pause();
  setTimeout(() => ends.near.resume(), 200);
  const sent = ends.sender.memory({ file: "pages-1.img", descriptor, from: 0, to: 32 << 20 }).then(() => ends.sender.flush(5000));
  await expect(sent).rejects.toMatchObject({ code: "NO_ROOM" });
  closeSync(descriptor);
});

test("a connection that breaks fails what is under way, and everything after it", async () => {
  using ends = await pair(nothing);
  const flushed = ends.sender.stream("x", Readable.from([Buffer.from("x")])).then(() => {
    ends.far.destroy();
    return ends.sender.flush(5000);
  });
  await expect(flushed).rejects.toMatchObject({ code: "SITE_UNREACHABLE" });
  await expect(ends.sender.stream("y", undefined)).rejects.toMatchObject({ code: "SITE_UNREACHABLE" });
});

test("whoever waits to send hears that the connection was closed", async () => {
  const file = path.join(work, "pages-1.img");
  writeFileSync(file, Buffer.alloc(32 << 20));
  const descriptor = openSync(file, "r");
  // Nobody reads: all buffers are soon in flight.
  const [near] = duplexPair();
  const sender = createSender(near);
  const sent = sender.memory({ file: "pages-1.img", descriptor, from: 0, to: 32 << 20 });
  setTimeout(() => sender.close(), 50);
  await expect(sent).rejects.toMatchObject({ code: "CANCELLED" });
  closeSync(descriptor);
}, 5_000);

test("a peer that never confirms fails the flush in time", async () => {
  using ends = await pair({ ...nothing, flushed: () => sleep(60_000, undefined, { ref: false }) });
  await expect(ends.sender.flush(100)).rejects.toMatchObject({ code: "TIMED_OUT" });
});

test("a memory image's name can't leave its directory", () => {
  const store = openMemoryStore(work);
  for (const file of ["../x", "a/../x", "/a", "a/b/c", ".hidden", ""])
    expect(() => store.write({ file, offset: 0 }, Buffer.from("x"))).toThrow(/name/);
  store.close();
});
