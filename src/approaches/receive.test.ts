import { duplexPair, Readable } from "node:stream";
import fc from "fast-check";
import { expect, test } from "vitest";
import { createSender, receive, type Sink } from "../transfer/channel.ts";
import { createAllowance, receiveService } from "./receive.ts";

const announced = { memoryBytes: 1_000, fileBytes: 1_000, imageBytes: 1_000 };
const nowhere: Sink = { write: () => undefined, end: async () => undefined };
const store = { write: () => false, flush: () => undefined, close: () => undefined };

test.each([
  ["memory", 64 << 20],
  ["files", 1 << 30],
  ["image", 64 << 20],
  ["log", 1 << 30],
] as const)("more %s than was announced, and some, is refused", (kind, slack) => {
  const allowance = createAllowance(announced);
  allowance.take(kind, slack);
  expect(() => allowance.take(kind, 16_001)).toThrow(expect.objectContaining({ code: "NO_ROOM" }) as Error);
});

function connected(options: Partial<Parameters<typeof receiveService>[2]> = {}) {
  const [near, far] = duplexPair();
  far.on("error", () => undefined);
  const parts = {
    allowance: createAllowance(announced),
    memory: () => store,
    sinkFor: () => nowhere,
    signal: new AbortController().signal,
  };
  const received = receiveService(far, Buffer.alloc(0), { ...parts, ...options });
  received.catch(() => undefined);
  return { near, far, received };
}

test("what comes over several connections is counted together, and the sender hears why it is refused", async () => {
  const allowance = createAllowance(announced);
  allowance.take("log", (1 << 30) - 10);
  const { near, received } = connected({ allowance });
  const sender = createSender(near);
  const sent = sender.stream({ kind: "log" }, Readable.from([Buffer.alloc(50)])).then(() => sender.flush(5_000));
  await expect(sent).rejects.toMatchObject({ code: "NO_ROOM" });
  await expect(received).rejects.toMatchObject({ code: "NO_ROOM" });
});

test.each([
  ["streams", (number: number) => Buffer.concat([open(number), frame({ kind: "end", stream: number })])],
  ["files of memory", (number: number) => frame({ kind: "memory", file: `pages-${number}.img`, offset: 0 }, Buffer.from("x"))],
])("ever more %s, as good as empty, are refused, too", async (_what, one) => {
  const allowance = createAllowance(announced);
  allowance.take("log", (1 << 30) - (1 << 20));
  allowance.take("memory", (64 << 20) - (1 << 20));
  const names = new Set<string>();
  const memory = () => ({ ...store, write: ({ file }: { file: string }) => names.size < names.add(file).size });
  const { near, received } = connected({ allowance, memory });
  near.on("error", () => undefined).resume();
  for (let number = 0; number < 1_000; number++) near.write(one(number));
  await expect(received).rejects.toMatchObject({ code: "NO_ROOM" });
});

test("a reservation that ends takes its connections and all their sinks with it", async () => {
  const cancelled = new AbortController();
  const ended: number[] = [];
  let opened = 0;
  const sinkFor = (): Sink => {
    const which = opened++;
    return { write: () => undefined, end: async () => void ended.push(which) };
  };
  const { near, received } = connected({ sinkFor, signal: cancelled.signal });
  near.on("error", () => undefined);
  const sender = createSender(near);
  void sender.stream({ kind: "log" }, new Readable({ read: () => undefined })).catch(() => undefined);
  await expect.poll(() => opened).toBe(1);
  cancelled.abort();
  await received;
  expect(ended).toEqual([0]);
});

const frame = (header: unknown, payload = Buffer.alloc(0)) => {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeUInt32BE(json.length, 0);
  prefix.writeUInt32BE(payload.length, 4);
  return Buffer.concat([prefix, json, payload]);
};
const open = (stream: number, what: unknown = { kind: "log" }) => frame({ kind: "open", stream, what });

test.each([
  ["a stream that is open already", [open(1), open(1)]],
  ["more streams than a sender has", Array.from({ length: 9 }, (_, at) => open(at))],
  ["a header that is no header", [frame({ kind: "steal" })]],
  ["a header that is no JSON", [frame("{")]],
  ["a negative offset", [frame({ kind: "memory", file: "pages-1.img", offset: -1 }, Buffer.from("x"))]],
  ["a stream's content of another form", [open(1, { kind: "tree", tree: "../x", deleted: [] })]],
])("%s ends the connection", async (_, frames) => {
  const { near, received } = connected();
  near.on("error", () => undefined).resume();
  near.write(Buffer.concat(frames));
  await expect(received).rejects.toMatchObject({ code: "BAD_REQUEST" });
});

/** What a hostile site may send: frames with something wrong in them, or none at all. */
const hostile = fc.array(
  fc.oneof(
    fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes)),
    fc.tuple(fc.json(), fc.uint8Array({ maxLength: 32 })).map(([json, payload]) => frame(json, Buffer.from(payload))),
    fc
      .record({
        kind: fc.constantFrom("memory", "open", "data", "end", "flush", "x"),
        stream: fc.oneof(fc.integer(), fc.anything()),
        what: fc.anything(),
        file: fc.oneof(fc.string(), fc.constantFrom("pages-1.img", "../x", "/etc/passwd")),
        offset: fc.oneof(fc.integer(), fc.double()),
      })
      .map((header) => frame(JSON.stringify(header) || "{}", Buffer.from("x"))),
  ),
  { maxLength: 12 },
);

test("whatever a site sends, its connection ends, and nothing else", async () => {
  const unhandled: unknown[] = [];
  const note = (cause: unknown) => void unhandled.push(cause);
  process.on("unhandledRejection", note);
  await fc.assert(
    fc.asyncProperty(hostile, async (pieces) => {
      const { near, received } = connected();
      near.on("error", () => undefined).resume();
      for (const piece of pieces) near.write(piece);
      near.end();
      await received.catch((cause: unknown) => expect(cause).toBeInstanceOf(Error));
    }),
    { numRuns: 500 },
  );
  process.off("unhandledRejection", note);
  expect(unhandled).toEqual([]);
}, 30_000);

test("whatever a site answers, the sender's connection ends, and nothing else", async () => {
  const answers = fc.array(fc.oneof(fc.string(), fc.json(), fc.constant('{"ok":true}'), fc.constant("x".repeat(70_000))), { maxLength: 6 });
  await fc.assert(
    fc.asyncProperty(answers, fc.boolean(), async (lines, closes) => {
      const [near, far] = duplexPair();
      far.on("error", () => undefined).resume();
      near.on("error", () => undefined);
      const sender = createSender(near);
      const flushed = sender.flush(1_000).then(
        () => "stored",
        (cause: unknown) => cause,
      );
      for (const line of lines) far.write(`${line}\n`);
      if (closes) far.end();
      else sender.close();
      const outcome = await flushed;
      expect(outcome === "stored" || outcome instanceof Error).toBe(true);
    }),
    { numRuns: 300 },
  );
}, 30_000);

test("replies without an end are not gathered for ever", async () => {
  const [near, far] = duplexPair();
  far.on("error", () => undefined);
  const sender = createSender(near);
  const flushed = sender.flush(5_000);
  flushed.catch(() => undefined);
  for (let piece = 0; piece < 3; piece++) far.write("x".repeat(40_000));
  await expect(flushed).rejects.toMatchObject({ code: "PEER_FAILED" });
  expect(near.destroyed).toBe(true);
});

test("the receiver of frames is not held up by a header that never ends", async () => {
  const [near, far] = duplexPair();
  near.on("error", () => undefined).resume();
  const received = receive(far, Buffer.alloc(0), { memory: () => undefined, open: () => nowhere, flushed: async () => undefined });
  const prefix = Buffer.alloc(8);
  prefix.writeUInt32BE((1 << 20) + 1, 0);
  near.write(prefix);
  await expect(received).rejects.toMatchObject({ code: "BAD_REQUEST" });
});
