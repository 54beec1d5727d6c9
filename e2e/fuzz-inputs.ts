/** What a fuzzer says as a source: requests to a destination, and conversations of the data connection. */
import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { garbled, mutated } from "./mutations.ts";

export type Ask = Readonly<{ method: string; path: string; body?: Buffer; headers?: Readonly<Record<string, string>> }>;
const actions = ["image", "create", "arm", "restore", "commit", "acknowledge", "data", "evil"];

/** Requests of a peer: real needs and paths, and what comes of them by a change or three. */
export function requestsOf(need: object, ids: () => string): fc.Arbitrary<Ask> {
  const json = { "content-type": "application/json" };
  const id = fc.oneof({ weight: 9, arbitrary: fc.constant(0).map(ids) }, { weight: 1, arbitrary: fc.webSegment() });
  const body = fc.oneof(
    { weight: 1, arbitrary: fc.constant(Buffer.from(JSON.stringify(need))) },
    { weight: 6, arbitrary: mutated(need).map((value) => Buffer.from(JSON.stringify(value))) },
    { weight: 1, arbitrary: garbled(Buffer.from(JSON.stringify(need))) },
  );
  const withBody = (method: string, path: fc.Arbitrary<string>) =>
    fc.record({ path, body }).map(({ path: at, body: bytes }) => ({ method, path: at, body: bytes, headers: json }));
  const method = fc.constantFrom("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "HEAD");
  const odd = fc.record({ method, path: fc.webPath().map((path) => `/${path}`), body: garbled(Buffer.from("{}")) });
  const pairing = {
    name: "x",
    certificate: "-----BEGIN CERTIFICATE-----",
    addresses: ["127.0.0.1:1"],
    nonce: "0".repeat(64),
    proof: "0".repeat(64),
    port: 1,
  };
  return fc.oneof(
    { weight: 6, arbitrary: withBody("POST", fc.constant("/peer/check")) },
    {
      weight: 4,
      arbitrary: withBody(
        "PUT",
        id.map((each) => `/peer/migrations/${each}`),
      ),
    },
    {
      weight: 3,
      arbitrary: fc
        .record({ each: id, action: fc.constantFrom(...actions) })
        .map(({ each, action }) => ({ method: "POST", path: `/peer/migrations/${each}/${action}` })),
    },
    { weight: 2, arbitrary: id.map((each) => ({ method: "GET", path: `/peer/migrations/${each}` })) },
    { weight: 1, arbitrary: id.map((each) => ({ method: "DELETE", path: `/peer/migrations/${each}` })) },
    { weight: 1, arbitrary: odd },
    {
      weight: 1,
      arbitrary: mutated(pairing).map((value) => ({
        method: "POST",
        path: "/pair",
        body: Buffer.from(JSON.stringify(value)),
        headers: json,
      })),
    },
  );
}

type Header = Record<string, unknown>;
const frame = (header: Buffer, payload: Buffer, lie: { header?: number; payload?: number } = {}) => {
  const prefix = Buffer.alloc(8);
  prefix.writeUInt32BE((lie.header ?? header.length) >>> 0, 0);
  prefix.writeUInt32BE((lie.payload ?? payload.length) >>> 0, 4);
  return Buffer.concat([prefix, header, payload]);
};

/** Conversations as a source has them, and what comes of them. */
export function conversations(): fc.Arbitrary<{ frames: number; bytes: Buffer }> {
  const none = Buffer.alloc(0);
  const archive = execFileSync("tar", ["--create", "--file=-", "--format=posix", "-C", "/etc", "hostname"]);
  const stream = (number: number, what: unknown, content: Buffer): [Header, Buffer][] => [
    [{ kind: "open", stream: number, what }, none],
    [{ kind: "data", stream: number }, content],
    [{ kind: "end", stream: number }, none],
  ];
  const real: readonly [Header, Buffer][] = [
    ...stream(0, { kind: "log" }, Buffer.from("a line\n")),
    ...stream(1, { kind: "image", file: "blobs/sha256/0" }, Buffer.from("layer")),
    [{ kind: "flush" }, none],
    [{ kind: "memory", file: "pages-1.img", offset: 0 }, Buffer.alloc(4_096, 1)],
    [{ kind: "memory", file: "pages-1.img", offset: 4_096 }, Buffer.alloc(4_096, 2)],
    [{ kind: "memory", file: "inventory.img", offset: 0 }, Buffer.from("x")],
    [{ kind: "flush" }, none],
  ];
  // A tree costs its receiver some processes.
  const trees = [
    ...stream(2, { kind: "tree", tree: "changes", deleted: ["old"] }, archive),
    ...stream(3, { kind: "tree", tree: "volume:0", deleted: [] }, archive),
  ];
  const one: fc.Arbitrary<Buffer> = fc.constantFrom(...real, ...real, ...trees).chain(([header, payload]) => {
    const text = Buffer.from(JSON.stringify(header));
    return fc.oneof(
      { weight: 4, arbitrary: fc.constant(frame(text, payload)) },
      { weight: 4, arbitrary: mutated(header).map((value): Buffer => frame(Buffer.from(JSON.stringify(value)), payload)) },
      { weight: 1, arbitrary: garbled(frame(text, payload)) },
      { weight: 1, arbitrary: fc.record({ header: fc.nat(), payload: fc.nat() }).map((lie) => frame(text, payload, lie)) },
    );
  });
  const mixed = fc.array(one, { minLength: 1, maxLength: 24 });
  // Right up to one frame, which comes at any place.
  const nearlyRight = fc.record({ at: fc.nat(real.length), wrong: one }).map(({ at, wrong }) => {
    const frames = real.map(([header, payload]): Buffer => frame(Buffer.from(JSON.stringify(header)), payload));
    return frames.toSpliced(at, 0, wrong);
  });
  return fc.oneof(mixed, nearlyRight).map((frames) => ({ frames: frames.length, bytes: Buffer.concat(frames) }));
}
