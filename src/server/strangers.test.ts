import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect as connectPlain, createServer, type AddressInfo, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type ConnectionOptions } from "node:tls";
import { execa } from "execa";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import { openTrustFiles } from "../trust/files.ts";
import { createPeerClient } from "../trust/peer-client.ts";
import { temporaryDirectory } from "../trust/temporary-directory-for-tests.ts";
import { openTrust } from "../trust/trust.ts";
import { createPeerServer, listenForPeers } from "./peer-server.ts";
import { type ConnectionLimits, networkOf } from "./strangers.ts";

async function open(name: string) {
  const trust = await openTrust(openTrustFiles(temporaryDirectory()), name);
  onTestFinished(() => trust.close());
  return trust;
}

/** Site `beta`, and its peer `alpha`, whose address is 127.0.0.1. */
async function start(limits: Partial<ConnectionLimits> = {}) {
  const [alpha, beta] = [await open("alpha"), await open("beta")];
  const log = pino({ level: "silent" });
  const server = createPeerServer({ trust: beta, registerPeerRoutes: () => undefined, onData: () => undefined, log, limits });
  await listenForPeers(server, { host: "127.0.0.1", port: 0 });
  onTestFinished(async () => await server.close());
  const { port } = server.server.address() as AddressInfo;
  await alpha.addPeer({ name: "beta", certificate: beta.certificate, addresses: [`127.0.0.1:${port}`] });
  await beta.addPeer({ name: "alpha", certificate: alpha.certificate, addresses: ["127.0.0.1:7443"] });
  return { alpha, beta, port };
}

/** So many strangers, each with what it has got. */
function crowd({ port, count, localAddress, says }: { port: number; count: number; localAddress: string; says?: Buffer }) {
  const all = Array.from({ length: count }, () => {
    const socket = connectPlain({ port, host: "127.0.0.1", localAddress }).on("error", () => undefined);
    if (says) socket.write(says);
    const one = { socket, received: 0 };
    socket.on("data", ({ length }) => (one.received += length));
    return one;
  });
  onTestFinished(() => all.forEach(({ socket }) => socket.destroy()));
  return all;
}

/** What a TLS client sends first. */
async function clientHello(): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const wire = new Duplex({ read: () => undefined, write: (chunk: Buffer, _encoding, done) => (resolve(chunk), done()) });
  connect({ socket: wire, minVersion: "TLSv1.3" }).on("error", () => undefined);
  return await promise;
}

async function askHealth(socket: Socket, options: ConnectionOptions): Promise<string> {
  const tls = connect({ ...options, socket });
  tls.write("GET /peer/healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  let answer = "";
  tls.on("data", (chunk: Buffer) => (answer += chunk.toString())).on("error", () => undefined);
  await Promise.race([new Promise((done) => tls.once("close", done)), sleep(5_000)]);
  return answer;
}

test("a peer on a slow line gets in, also where strangers share its address and come between its first packet and its second", async () => {
  const { alpha, port } = await start();
  const slow = connectPlain({ port, host: "127.0.0.1", localAddress: "127.0.0.1" });
  await once(slow, "connect");
  const strangers = crowd({ port, count: 300, localAddress: "127.0.0.1", says: await clientHello() });
  strangers.push(...crowd({ port, count: 300, localAddress: "127.0.0.1" }));
  await Promise.all(strangers.map(({ socket }) => once(socket, "connect")));
  await sleep(200);
  expect(await askHealth(slow, alpha.connectOptions("beta"))).toMatch(/^HTTP\/1.1 200 [^]*beta/);
});

test("handshakes that strangers begin are answered so many a second, and no peer waits for them", async () => {
  const { alpha, port } = await start({ handshakesPerSecond: 100 });
  const hello = await clientHello();
  const startedAt = performance.now();
  const strangers = crowd({ port, count: 1_000, localAddress: "127.0.0.2", says: hello });
  await Promise.all(strangers.map(({ socket }) => once(socket, "connect")));
  for (let round = 0; round < 5; round++) {
    const caller = createPeerClient(alpha, "beta");
    expect(await caller.request({ method: "GET", path: "/peer/healthcheck", timeoutMs: 1_000 })).toEqual({ site: "beta" });
    caller.close();
  }
  // Nor does a stranger from elsewhere: addresses take turns.
  const other = connectPlain({ port, host: "127.0.0.1", localAddress: "127.0.0.3" });
  const asked = performance.now();
  expect(await askHealth(other, (await open("gamma")).pairingOptions())).toMatch(/^HTTP\/1.1 401 /);
  expect(performance.now() - asked).toBeLessThan(1_500);
  const answered = strangers.filter(({ received }) => received > 0).length;
  expect(answered).toBeLessThanOrEqual(10 + (performance.now() - startedAt) / 10);
  // They are not forgotten: each has its turn.
  await expect.poll(() => strangers.filter(({ received }) => received > 0).length).toBeGreaterThan(answered);
});

/** As a stranger whose certificate has so many others with it. */
const withChain = async (count: number): Promise<ConnectionOptions> => {
  const eve = await open("eve");
  const options = eve.pairingOptions();
  return { ...options, cert: String(options.cert) + eve.certificate.repeat(count) };
};
const from = (localAddress: string, port: number) => connectPlain({ port, host: "127.0.0.1", localAddress }).on("error", () => undefined);

test("who shows a chain of certificates gets no answer, nor anybody from there for a while; a peer's address stays open", async () => {
  const { alpha, port } = await start();
  const [chain, plain] = [await withChain(2), (await open("gamma")).pairingOptions()];
  expect(await askHealth(from("127.0.0.2", port), plain)).toMatch(/^HTTP\/1.1 401 /);
  expect(await askHealth(from("127.0.0.2", port), chain)).toBe("");
  expect(await askHealth(from("127.0.0.2", port), plain)).toBe("");
  expect(await askHealth(from("127.0.0.3", port), plain)).toMatch(/^HTTP\/1.1 401 /);
  expect(await askHealth(from("127.0.0.1", port), chain)).toBe("");
  expect(await askHealth(from("127.0.0.1", port), alpha.connectOptions("beta"))).toMatch(/^HTTP\/1.1 200 /);
});

test("where all callers have one address, nobody is kept out for what another showed", async () => {
  const { port } = await start({ barredMs: 0 });
  const [chain, plain] = [await withChain(2), (await open("gamma")).pairingOptions()];
  expect(await askHealth(from("127.0.0.2", port), chain)).toBe("");
  expect(await askHealth(from("127.0.0.2", port), plain)).toMatch(/^HTTP\/1.1 401 /);
});

test("handshakes that cost much get no answer, however many come at once, and no peer waits for them", async () => {
  const { alpha, port } = await start();
  const chain = await withChain(50);
  const dear = Array.from({ length: 40 }, (_, at) => askHealth(from(`127.0.0.${at + 10}`, port), chain));
  expect(await askHealth(from("127.0.0.1", port), alpha.connectOptions("beta"))).toMatch(/^HTTP\/1.1 200 /);
  expect(new Set(await Promise.all(dear))).toEqual(new Set([""]));
});

test("as many may wait to be accepted as the kernel lets wait", async () => {
  const { port } = await start();
  const { stdout } = await execa("ss", ["--no-header", "--listening", "--tcp", "--numeric", `sport = :${port}`]);
  const [, , queue] = stdout.trim().split(/\s+/);
  expect(Number(queue)).toBe(Math.min(4096, Number(readFileSync("/proc/sys/net/core/somaxconn", "utf8"))));
});

test("a peer that was let go in a crowd comes again", async () => {
  const { alpha, port } = await start();
  let drops = 3;
  const between = createServer((socket) => {
    if (drops-- > 0) return void socket.destroy();
    const onward = connectPlain(port, "127.0.0.1");
    for (const each of [socket, onward]) each.on("error", () => undefined);
    socket.pipe(onward).pipe(socket);
  }).listen(0, "127.0.0.1");
  onTestFinished(() => void between.close());
  await once(between, "listening");
  const { certificate = "" } = alpha.peer("beta") ?? {};
  await alpha.addPeer({ name: "beta", certificate, addresses: [`127.0.0.1:${(between.address() as AddressInfo).port}`] });
  const caller = createPeerClient(alpha, "beta");
  onTestFinished(() => caller.close());
  expect(await caller.request({ method: "GET", path: "/peer/healthcheck" })).toEqual({ site: "beta" });
});

test("who says nothing, or waits in vain for a handshake, is let go", async () => {
  const { port } = await start({ silentMs: 200, waitingMs: 200, strangerMs: 400, handshakesPerSecond: 10 });
  const strangers = [
    ...crowd({ port, count: 20, localAddress: "127.0.0.2" }),
    ...crowd({ port, count: 20, localAddress: "127.0.0.2", says: await clientHello() }),
    ...crowd({ port, count: 20, localAddress: "127.0.0.2", says: Buffer.from("GET / HTTP/1.1\r\n\r\n") }),
  ];
  await Promise.all(strangers.map(({ socket }) => once(socket, "close")));
});

test.each([
  ["192.0.2.7", "192.0.2.7"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
  ["2001:db8:1:2::6", "2001:db8:1:2"],
  ["2001:db8::6", "2001:db8:0:0"],
  ["::1", "0:0:0:0"],
])("%s counts as %s", (address, network) => expect(networkOf(address)).toBe(network));
