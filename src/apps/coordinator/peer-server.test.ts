import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { connect as connectPlain, createServer as createPlainServer, type AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, createServer, type TLSSocket } from "node:tls";
import fastify, { type FastifyInstance } from "fastify";
import { expect, onTestFinished, test, vi } from "vitest";
import { UmsError } from "../../errors.ts";
import { cluster } from "../../trust/cluster-for-tests.ts";
import { openTrustFiles } from "../../trust/files.ts";
import { createPeerClient } from "../../trust/peer-client.ts";
import { temporaryDirectory } from "../../trust/temporary-directory-for-tests.ts";
import { openTrust, type Trust } from "../../trust/trust.ts";
import { createPeerServer, type DataConnection, listenForPeers, type PeerApp, type People } from "../../server/peer-server.ts";
import { pair, startSite, type TestSite } from "./site-for-tests.ts";

const signal = () => AbortSignal.timeout(5_000);
const coded = (code: string) => expect.objectContaining({ code });

/** One raw HTTP request; answers the whole response. */
async function raw(site: { port: number }, trust: Trust, text: string, options = trust.pairingOptions()): Promise<string> {
  const socket = connect({ ...options, host: "127.0.0.1", port: site.port });
  let answer = "";
  socket.on("data", (chunk: Buffer) => (answer += chunk.toString()));
  socket.on("error", () => undefined);
  socket.write(text);
  await Promise.race([new Promise((done) => socket.once("close", done)), sleep(1_500)]);
  socket.destroy();
  return answer;
}
const get = (path: string, more = "") => `GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${more}\r\n`;

async function stranger(): Promise<Trust> {
  const trust = await openTrust(openTrustFiles(temporaryDirectory()), "stranger");
  onTestFinished(() => trust.close());
  return trust;
}

function client(from: Pick<TestSite, "trust">, to: string) {
  const made = createPeerClient(from.trust, to);
  onTestFinished(() => made.close());
  return made;
}

/** Routes that tell who calls. */
const echo = (app: PeerApp) => {
  app.get("/peer/who", (request) => ({ peer: request.peer }));
  app.post("/peer/echo", (request) => request.body);
  app.get("/peer/slow", async () => await sleep(60_000, {}, { ref: false }));
  app.get("/peer/refuse", () => {
    throw new UmsError("ALREADY_MIGRATING", "It is on its way: m0000001.");
  });
};

test("two sites pair by a code; each knows the other's authority and address", async () => {
  const [a, b] = [await startSite("alpha", { registerPeerRoutes: echo }), await startSite("beta", { registerPeerRoutes: echo })];
  await pair(a, b);
  expect(a.trust.peer("beta")).toMatchObject({ certificate: b.trust.certificate, addresses: [b.address] });
  expect(b.trust.peer("alpha")).toMatchObject({ certificate: a.trust.certificate, addresses: [a.address] });
  expect(await client(a, "beta").request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
  expect(await client(b, "alpha").request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "beta" });
});

test("wrong codes are refused, slowly, and however many they are the right one stays good", async () => {
  const [a, b, eve] = [await startSite("alpha"), await startSite("beta"), await startSite("eve")];
  const { code } = await b.pairing.issueCode();
  const wrong = code.startsWith("0") ? `1${code.slice(1)}` : `0${code.slice(1)}`;
  const attempt = (site: TestSite, tried: string) => site.pairing.pairWith({ address: b.address, code: tried, signal: signal() });
  const startedAt = Date.now();
  const tries = Array.from({ length: 40 }, () => attempt(eve, wrong));
  const refused = Promise.all(tries.map((each) => expect(each).rejects.toThrow(coded("PAIRING_REFUSED"))));
  // While those are still at it; small letters, and no hyphens.
  await attempt(a, code.toLowerCase().replaceAll("-", " "));
  await refused;
  expect(Date.now() - startedAt).toBeGreaterThan(1_000);
  await expect(attempt(a, "too short")).rejects.toThrow(coded("BAD_REQUEST"));
  expect([a, b, eve].map(({ trust }) => trust.peers().map(({ name }) => name))).toEqual([["beta"], ["alpha"], []]);
});

test("a wrong code costs its connection", async () => {
  const b = await startSite("beta");
  const body = JSON.stringify({
    name: "eve",
    step: "pair",
    certificate: "none",
    addresses: [],
    port: 1,
    nonce: "0".repeat(64),
    proof: "0".repeat(64),
  });
  const post = `POST /pair HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const startedAt = performance.now();
  const answers = await raw(b, await stranger(), post);
  expect(performance.now() - startedAt).toBeLessThan(1_450);
  expect(answers.match(/HTTP\/1.1 401/g)).toHaveLength(1);
});

/** What one connection gets for requests that a stranger sends without waiting for an answer. */
async function pipeline(site: TestSite, request: string) {
  let asked = 0;
  site.peerServer.server.on("request", ({ socket }: IncomingMessage) => void (socket.destroyed || asked++));
  const answers = await raw(site, await stranger(), request.repeat(1_500));
  return { asked, answered: answers.match(/HTTP\/1.1 /g)?.length ?? 0 };
}

test.each([
  ["the health check", "GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n"],
  ["a path that can't be read", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"],
])("a stranger asks once on a connection: %s", async (_, request) => {
  const b = await startSite("beta");
  const { asked, answered } = await pipeline(b, request);
  expect(answered).toBeLessThanOrEqual(1);
  expect(asked).toBeLessThanOrEqual(1);
  const [first] = [await raw(b, await stranger(), request)];
  expect(first.match(/HTTP\/1.1 /g)).toHaveLength(1);
  expect(first).toMatch(/connection: close/i);
});

test("wrong tries to pair can't be sent in one go", async () => {
  const b = await startSite("beta");
  let tries = 0;
  const answer = b.latePairing.answer.bind(b.latePairing);
  b.latePairing.answer = (request, socket) => (tries++, answer(request, socket));
  const nothing = "0".repeat(64);
  const body = JSON.stringify({ name: "eve", step: "introduce", certificate: "x", addresses: [], port: 1, nonce: nothing, proof: nothing });
  await pipeline(b, `POST /pair HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  expect(tries).toBeLessThanOrEqual(1);
});

test("a wrong token is judged once for each connection, and a good one as often as somebody asks", async () => {
  const api = answering();
  await api.ready();
  let judged = 0;
  const people: People = {
    async admit({ headers }) {
      judged++;
      await sleep(5);
      if (headers.authorization !== "Bearer good") throw new UmsError("NOT_AUTHORISED", "Who?");
    },
    answer: (request, reply) => api.routing(request.raw, reply.raw),
  };
  const a = await startSite("alpha", { people });
  await pipeline(a, "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer bad\r\n\r\n");
  expect(judged).toBe(1);

  const socket = connect({ ...(await stranger()).pairingOptions(), host: "127.0.0.1", port: a.port });
  onTestFinished(() => void socket.destroy());
  socket.on("error", () => undefined);
  for (const token of ["good", "good", "bad"]) {
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n\r\n`);
    const [answer] = (await once(socket, "data")) as [Buffer];
    expect(answer.toString()).toMatch(token === "good" ? /^HTTP\/1.1 200 [^]*hello/ : /^HTTP\/1.1 401 /);
  }
  await once(socket, "close");
  expect(judged).toBe(4);
});

test("a code is good once, for ten minutes, and only until the next one", async () => {
  let later = 0;
  const [a, b, c] = [await startSite("alpha"), await startSite("beta", { now: () => Date.now() + later }), await startSite("gamma")];
  const { code } = await b.pairing.issueCode();
  await a.pairing.pairWith({ address: b.address, code, signal: signal() });
  const attempt = (tried: string) => c.pairing.pairWith({ address: b.address, code: tried, signal: signal() });
  await expect(attempt(code)).rejects.toThrow(coded("PAIRING_REFUSED"));
  const replaced = await b.pairing.issueCode();
  const old = await b.pairing.issueCode();
  await expect(attempt(replaced.code)).rejects.toThrow(coded("PAIRING_REFUSED"));
  later = 10 * 60_000;
  await expect(attempt(old.code)).rejects.toThrow(coded("PAIRING_REFUSED"));
  expect(b.trust.peers().map((peer) => peer.name)).toEqual(["alpha"]);
});

test("a man in the middle with a certificate of his own gets nothing", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta")];
  // He calls himself as the victim is called, and passes every byte on.
  const mallory = await openTrust(openTrustFiles(temporaryDirectory()), "beta");
  onTestFinished(() => mallory.close());
  const proxy = createServer(mallory.serverOptions(), (inner) => {
    const outer = connect({ ...mallory.pairingOptions(), host: "127.0.0.1", port: b.port });
    inner.on("error", () => outer.destroy());
    outer.on("error", () => inner.destroy());
    inner.pipe(outer).pipe(inner);
  });
  onTestFinished(() => void proxy.close());
  await new Promise<void>((done) => proxy.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const { code } = await b.pairing.issueCode();
  await expect(a.pairing.pairWith({ address, code, signal: signal() })).rejects.toThrow(coded("PAIRING_REFUSED"));
  expect([...a.trust.peers(), ...b.trust.peers()]).toEqual([]);
});

test("an impostor who accepts any code is found out", async () => {
  const a = await startSite("alpha");
  const mallory = await openTrust(openTrustFiles(temporaryDirectory()), "beta");
  onTestFinished(() => mallory.close());
  const body = JSON.stringify({
    name: "beta",
    certificate: mallory.certificate,
    addresses: [],
    nonce: "0".repeat(64),
    proof: "0".repeat(64),
  });
  const impostor = createServer(mallory.serverOptions(), (socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.end(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`));
  });
  onTestFinished(() => void impostor.close());
  await new Promise<void>((done) => impostor.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${(impostor.address() as AddressInfo).port}`;
  const { code } = await a.pairing.issueCode();
  await expect(a.pairing.pairWith({ address, code, signal: signal() })).rejects.toThrow(coded("PAIRING_REFUSED"));
  expect(a.trust.peers()).toEqual([]);
});

test("a site does not pair with itself, nor with another of a name that is taken", async () => {
  const [a, b, impostor, twin] = [await startSite("alpha"), await startSite("beta"), await startSite("beta"), await startSite("alpha")];
  await expect(pair(a, a)).rejects.toThrow(coded("PAIRED_WITH_ITSELF"));
  await expect(pair(twin, a)).rejects.toThrow(coded("SITE_NAME_TAKEN"));
  await pair(a, b);
  await expect(pair(a, impostor)).rejects.toThrow(coded("SITE_NAME_TAKEN"));
  await expect(pair(impostor, a)).rejects.toThrow(coded("SITE_NAME_TAKEN"));
  await pair(a, b);
  expect([a, b].flatMap((site) => site.trust.peers().map((peer) => peer.name))).toEqual(["beta", "alpha"]);
  expect(impostor.trust.peers()).toEqual([]);
});

test("nothing at the address, or nothing of UMS there, is said so", async () => {
  const a = await startSite("alpha");
  const { code } = await a.pairing.issueCode();
  await expect(a.pairing.pairWith({ address: "127.0.0.1:1", code, signal: signal() })).rejects.toThrow(coded("SITE_UNREACHABLE"));
  const silent = createPlainServer();
  onTestFinished(() => void silent.close());
  await new Promise<void>((done) => silent.listen(0, "127.0.0.1", done));
  const address = `127.0.0.1:${(silent.address() as AddressInfo).port}`;
  await expect(a.pairing.pairWith({ address, code, signal: AbortSignal.timeout(200) })).rejects.toThrow(coded("SITE_UNREACHABLE"));
});

test("a stranger gets the health check, and 401 for everything else", async () => {
  let opened = 0;
  const b = await startSite("beta", { registerPeerRoutes: echo, onData: () => void opened++ });
  const eve = await stranger();
  expect(await raw(b, eve, get("/healthcheck"))).toMatch(/^HTTP\/1.1 200 [^]*OK$/);
  const upgrade = "Connection: Upgrade\r\nUpgrade: ums-data\r\n";
  for (const request of [
    get("/peer/who"),
    get("/peer/healthcheck"),
    get("/"),
    get("/nowhere"),
    get("/pair"),
    "DELETE /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n",
    "HEAD /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    `POST /peer/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}`,
    `GET /peer/migrations/m0000001/data HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n`,
    `GET /healthcheck HTTP/1.1\r\nHost: x\r\n${upgrade}\r\n`,
  ]) {
    expect(await raw(b, eve, request), request).toMatch(/^HTTP\/1.1 401 /);
  }
  const { key: _key, cert: _cert, ...nobody } = eve.pairingOptions();
  expect(await raw(b, eve, get("/peer/who"), nobody)).toMatch(/^HTTP\/1.1 401 /);
  expect(opened).toBe(0);
});

test("a peer that was removed is refused at once, on the connection that it has open too", async () => {
  let data: TLSSocket | undefined;
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo, onData: (socket) => (data = socket) })];
  await pair(a, b);
  const caller = client(a, "beta");
  await caller.request({ method: "GET", path: "/peer/who" });
  const open = await caller.openData({ migrationId: "m0000001", signal: signal() });
  open.on("error", () => undefined);
  const slow = caller.request({ method: "GET", path: "/peer/slow" });
  // It is sent again on a new connection, where the caller is a stranger.
  const slowRefused = expect(slow).rejects.toThrow(coded("NOT_AUTHORISED"));
  await sleep(50);
  const closed = once(open, "close");
  await b.trust.removePeer("alpha");
  await Promise.all([closed, slowRefused]);
  expect(data?.destroyed).toBe(true);
  await expect(caller.request({ method: "GET", path: "/peer/who" })).rejects.toThrow(coded("NOT_AUTHORISED"));
  await expect(caller.openData({ migrationId: "m0000001", signal: signal() })).rejects.toThrow(coded("NOT_AUTHORISED"));
});

test("a peer's own error codes come through, and its failures have one", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo })];
  await pair(a, b);
  const caller = client(a, "beta");
  await expect(caller.request({ method: "GET", path: "/peer/refuse" })).rejects.toMatchObject({
    code: "ALREADY_MIGRATING",
    message: "It is on its way: m0000001.",
  });
  await expect(caller.request({ method: "GET", path: "/peer/slow", timeoutMs: 100 })).rejects.toThrow(coded("TIMED_OUT"));
  await expect(caller.request({ method: "GET", path: "/peer/slow", signal: AbortSignal.timeout(100) })).rejects.toThrow(coded("CANCELLED"));
  await expect(caller.request({ method: "POST", path: "/peer/echo", body: "x".repeat(10_000_000) })).rejects.toThrow();
  expect(await caller.request({ method: "POST", path: "/peer/echo", body: { a: 1 } })).toEqual({ a: 1 });
  await b.peerServer.close();
  await expect(caller.request({ method: "GET", path: "/peer/who" })).rejects.toThrow(coded("SITE_UNREACHABLE"));
  await expect(client(a, "gamma").request({ method: "GET", path: "/peer/who" })).rejects.toThrow(coded("SITE_NOT_FOUND"));
});

test("requests share one warm connection, and one that broke is replaced unseen", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo })];
  await pair(a, b);
  const sockets = new Set<TLSSocket>();
  b.peerServer.server.on("secureConnection", (socket: TLSSocket) => sockets.add(socket));
  const caller = client(a, "beta");
  for (let i = 0; i < 5; i++) await caller.request({ method: "GET", path: "/peer/who" });
  expect(sockets.size).toBe(1);
  sockets.forEach((socket) => socket.destroy());
  expect(await caller.request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
  expect(sockets.size).toBe(2);
});

test("a peer's addresses are tried in turn, and one where another site answers is not taken for it", async () => {
  const [a, b, c] = [
    await startSite("alpha"),
    await startSite("beta", { registerPeerRoutes: echo }),
    await startSite("gamma", { registerPeerRoutes: echo }),
  ];
  await pair(a, b);
  await pair(a, c);
  await a.trust.addPeer({ name: "beta", certificate: b.trust.certificate, addresses: ["127.0.0.1:1", c.address, b.address] });
  expect(await client(a, "beta").request({ method: "GET", path: "/peer/healthcheck" })).toEqual({ site: "beta" });
  await a.trust.addPeer({ name: "beta", certificate: b.trust.certificate, addresses: [c.address] });
  await expect(client(a, "beta").request({ method: "GET", path: "/peer/healthcheck" })).rejects.toThrow(coded("SITE_UNREACHABLE"));
});

test("a data connection carries bytes both ways, with its peer and migration named", async () => {
  const seen: DataConnection[] = [];
  const onData = (socket: TLSSocket, head: Buffer, connection: DataConnection) => {
    seen.push(connection);
    if (head.length > 0) socket.write(head);
    socket.pipe(socket);
  };
  const [a, b] = [await startSite("alpha"), await startSite("beta", { onData })];
  await pair(a, b);
  const socket = await client(a, "beta").openData({ migrationId: "m0000001", signal: signal() });
  const size = 8 * 1024 * 1024;
  let received = 0;
  socket.on("data", (chunk: Buffer) => (received += chunk.length));
  socket.end(Buffer.alloc(size, 1));
  await once(socket, "close");
  expect(received).toBe(size);
  expect(seen).toMatchObject([{ peer: "alpha", self: false, migrationId: "m0000001", url: "/peer/migrations/m0000001/data" }]);
  const refused = client(a, "beta").openData({ migrationId: "..%2f..", signal: signal() });
  await expect(refused).rejects.toThrow(coded("BAD_REQUEST"));
});

test("a node of a paired cluster may bring data, and ask for nothing", async () => {
  const seen: DataConnection[] = [];
  const onData = (socket: TLSSocket, _head: Buffer, connection: DataConnection) => {
    seen.push(connection);
    socket.end();
  };
  const [a, b] = [await cluster("alpha"), await startSite("beta", { registerPeerRoutes: echo, onData })];
  await a.trust.addPeer({ name: "beta", certificate: b.trust.certificate, addresses: [b.address] });
  await b.trust.addPeer({ name: "alpha", certificate: a.trust.certificate, addresses: ["127.0.0.2:1"] });
  await vi.waitUntil(() => a.node.peer("beta"));
  const asked = client(a, "beta").request({ method: "GET", path: "/peer/who" });
  expect(await asked).toEqual({ peer: "alpha" });
  const ofNode = client({ trust: a.node }, "beta");
  await expect(ofNode.request({ method: "GET", path: "/peer/who" })).rejects.toThrow(coded("NOT_AUTHORISED"));
  await once(await ofNode.openData({ migrationId: "m0000001", signal: signal() }), "close");
  expect(seen).toMatchObject([{ peer: "alpha", self: false }]);
});

test("garbage, silence and floods of strangers end, while a peer gets through", async () => {
  const limits = { strangers: 8, handshakeMs: 300, strangerMs: 600 };
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo, limits })];
  await pair(a, b);
  const eve = await stranger();
  const caller = client(a, "beta");
  expect(await raw(b, eve, "\0\0garbage\r\n\r\n")).toMatch(/^(HTTP\/1.1 400 |$)/);
  const ends: Promise<unknown>[] = [];
  for (let i = 0; i < 5; i++) {
    const silent = connectPlain(b.port, "127.0.0.1");
    silent.on("error", () => undefined).resume();
    if (i === 1) silent.write("GET / HTTP/1.1\r\n\r\n");
    if (i === 2) silent.write(Buffer.from([0x16, 3, 1, 0xff, 0xff, 1]));
    if (i === 3) silent.destroy();
    ends.push(silent.closed ? Promise.resolve() : once(silent, "close"));
  }
  expect(await caller.request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
  const idle = connect({ ...eve.pairingOptions(), host: "127.0.0.1", port: b.port });
  idle.on("error", () => undefined).resume();
  ends.push(once(idle, "close"));
  const flood = Array.from({ length: 50 }, () =>
    connectPlain(b.port, "127.0.0.1")
      .on("error", () => undefined)
      .resume(),
  );
  ends.push(...flood.map((socket) => once(socket, "close")));
  await Promise.all(ends);
  // Peers' connections don't count as strangers' ones, and those that ended make room.
  const many = Array.from({ length: 20 }, () => caller.request({ method: "GET", path: "/peer/who" }));
  expect((await Promise.allSettled(many)).filter((result) => result.status === "fulfilled").length).toBeGreaterThanOrEqual(6);
  expect(await caller.request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
});

test("a peer that opens ever more connections disturbs neither its own requests and data nor other peers", async () => {
  const opened: TLSSocket[] = [];
  const limits = { ofPeer: 8 };
  const site = await startSite("alpha", { registerPeerRoutes: echo, limits, onData: (socket) => void opened.push(socket) });
  const [greedy, other] = [await startSite("greedy"), await startSite("other")];
  await pair(greedy, site);
  await pair(other, site);
  const data = await client(greedy, "alpha").openData({ migrationId: "0123456789ab", signal: signal() });
  onTestFinished(() => void data.destroy());
  const slow = new AbortController();
  const pending = client(greedy, "alpha").request({ method: "GET", path: "/peer/slow", signal: slow.signal });
  const ended = pending.catch((cause: unknown) => cause);
  const kept = client(other, "alpha");
  await kept.request({ method: "GET", path: "/peer/who" });
  const sockets: TLSSocket[] = [];
  onTestFinished(() => sockets.forEach((socket) => socket.destroy()));
  for (let count = 0; count < 100; count++) {
    const socket = connect({ ...greedy.trust.connectOptions("alpha"), host: "127.0.0.1", port: site.port });
    socket.on("error", () => undefined);
    sockets.push(socket);
    await once(socket, "secureConnect");
  }
  const open = () => sockets.filter((socket) => !socket.destroyed && !socket.readableEnded);
  sockets.forEach((socket) => socket.resume());
  // Before those that ask nothing would end anyway.
  await expect.poll(() => open().length, { timeout: 3_000 }).toBeLessThanOrEqual(6);
  expect(data.destroyed).toBe(false);
  data.write("still here");
  expect(String((await once(opened[0] as TLSSocket, "data"))[0])).toBe("still here");
  expect(await kept.request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "other" });
  expect(await client(greedy, "alpha").request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "greedy" });
  slow.abort(new UmsError("CANCELLED", "enough"));
  expect(await ended).toEqual(coded("CANCELLED"));
});

test.each([
  ["another address", ["127.0.0.2"]],
  ["many addresses", Array.from({ length: 80 }, (_, at) => `127.0.1.${at + 1}`)],
])("strangers who come from %s and say nothing keep no peer out, nor another stranger", async (_, addresses) => {
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo })];
  await pair(a, b);
  const idle = Array.from({ length: 1_000 }, (_each, at) =>
    connectPlain({ port: b.port, host: "127.0.0.1", localAddress: addresses[at % addresses.length] })
      .on("error", () => undefined)
      .resume(),
  );
  onTestFinished(() => idle.forEach((socket) => socket.destroy()));
  for (let round = 0; round < 10; round++) {
    // Each time on a connection of its own.
    const caller = client(a, "beta");
    expect(await caller.request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
    caller.close();
  }
  expect(await raw(b, await stranger(), "GET /healthcheck HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")).toMatch(/^HTTP\/1.1 200 /);
});

test("a port that is taken, or an address that is not this host's, is said so", async () => {
  const a = await startSite("alpha");
  const { trust, pairing } = a;
  const parts = { trust, pairing, registerPeerRoutes: () => undefined, onData: () => undefined, log: a.peerServer.log };
  const second = createPeerServer(parts);
  onTestFinished(async () => await second.close());
  await expect(listenForPeers(second, { host: "127.0.0.1", port: a.port })).rejects.toThrow(coded("SERVE_RUNNING"));
  const third = createPeerServer(parts);
  onTestFinished(async () => await third.close());
  await expect(listenForPeers(third, { host: "192.0.2.1", port: 7443 })).rejects.toThrow(coded("BAD_CONFIGURATION"));
});

test("closing the server ends idle, waiting and data connections at once", async () => {
  const [a, b] = [await startSite("alpha"), await startSite("beta", { registerPeerRoutes: echo, onData: () => undefined })];
  await pair(a, b);
  const caller = client(a, "beta");
  await caller.request({ method: "GET", path: "/peer/who" });
  const data = await caller.openData({ migrationId: "m0000001", signal: signal() });
  data.on("error", () => undefined).resume();
  const waiting = expect(caller.request({ method: "GET", path: "/peer/slow" })).rejects.toThrow(coded("SITE_UNREACHABLE"));
  await sleep(50);
  const closed = once(data, "close");
  const started = Date.now();
  await b.peerServer.close();
  await Promise.all([closed, waiting]);
  expect(Date.now() - started).toBeLessThan(1_000);
});

/** What a coordinator answers people with. */
function answering(): FastifyInstance {
  const app = fastify();
  app.get("/", () => "hello");
  app.get("/slow", async () => await sleep(900, "slowly"));
  app.post("/length", { bodyLimit: 20_000_000 }, (request) => String(JSON.stringify(request.body).length));
  onTestFinished(async () => await app.close());
  return app;
}

/** An HTTP request without TLS. @returns undefined where the connection ends without an answer */
async function plain({ port }: { port: number }, path: string, body?: string): Promise<string | undefined> {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  const init = { method: body === undefined ? "GET" : "POST", headers, ...(body === undefined ? {} : { body }) };
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, init).catch(() => undefined);
  return await answer?.text();
}

test("plain HTTP gets no answer, unless that was asked for: then TLS and sites go on as before beside it", async () => {
  const [a, c] = [await startSite("alpha"), await startSite("gamma")];
  expect(await plain(c, "/")).toBeUndefined();

  const unsafeHttp = answering();
  await unsafeHttp.ready();
  const limits = { strangers: 4, handshakeMs: 300, strangerMs: 600 };
  const b = await startSite("beta", { registerPeerRoutes: echo, unsafeHttp, limits });
  expect(await plain(b, "/")).toBe("hello");
  expect(await plain(b, "/peer/who")).not.toContain("alpha");
  // Neither the bounds for strangers nor the first byte's detour touch a longer request.
  expect(await plain(b, "/slow")).toBe("slowly");
  expect(await plain(b, "/length", JSON.stringify("x".repeat(5_000_000)))).toBe("5000002");
  await pair(a, b);
  expect(await client(a, "beta").request({ method: "GET", path: "/peer/who" })).toEqual({ peer: "alpha" });
  expect(await raw(b, await stranger(), get("/peer/who"))).toMatch(/^HTTP\/1.1 401 /);
  const silent = connectPlain(b.port, "127.0.0.1");
  silent.on("error", () => undefined).resume();
  await once(silent, "close");
  const idle = connectPlain(b.port, "127.0.0.1");
  idle.on("error", () => undefined).resume();
  idle.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  await once(idle, "data");
  const closing = once(idle, "close");
  await b.peerServer.close();
  await closing;
});

test("a person who is admitted is answered however long it takes, and one who isn't gets nowhere", async () => {
  const api = answering();
  await api.ready();
  const people: People = {
    async admit({ headers }) {
      if (headers.authorization !== "Bearer good") throw new UmsError("NOT_AUTHORISED", "Who?");
    },
    answer: (request, reply) => api.routing(request.raw, reply.raw),
  };
  const limits = { strangers: 4, handshakeMs: 300, strangerMs: 600 };
  const a = await startSite("alpha", { registerPeerRoutes: echo, people, limits });
  const eve = await stranger();
  expect(await raw(a, eve, get("/slow", "Authorization: Bearer good\r\n"))).toMatch(/^HTTP\/1.1 200 [^]*slowly$/);
  expect(await raw(a, eve, get("/slow", "Authorization: Bearer bad\r\n"))).toMatch(/^HTTP\/1.1 401 /);
  expect(await raw(a, eve, get("/peer/who", "Authorization: Bearer good\r\n"))).toMatch(/^HTTP\/1.1 401 /);
});
