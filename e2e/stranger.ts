/**
 * A stranger who keeps many connections to a site and says nothing more on them. Run where there is a way to it:
 *
 *     node e2e/stranger.ts HOST PORT COUNT PER_SECOND
 *
 * Every other connection has begun a handshake, with a real ClientHello. Those that the site ends are made anew, so many a second
 * at most. Prints `all were there` after the first COUNT, and each second how many are open.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import type { Place, RunningProcess } from "./place.ts";

const program = import.meta.filename;
/** As many as a queue of the kernel's usual length takes. */
const atOnce = 2_000;

/** Resolves when all connections have been opened once. */
export async function comeInNumbers(
  from: Place,
  { host, port, count, perSecond }: { host: string; port: number; count: number; perSecond: number },
): Promise<RunningProcess> {
  const stranger = await from.spawn([process.execPath, program, host, ...[port, count, perSecond].map(String)]);
  await stranger.waitForLine(/^all were there$/, 60_000);
  return stranger;
}

/** The first bytes that a TLS client sends. */
async function clientHello(): Promise<Buffer> {
  const { promise, resolve } = Promise.withResolvers<Buffer>();
  const wire = new Duplex({
    read: () => undefined,
    write(chunk: Buffer, _encoding, done) {
      resolve(chunk);
      done();
    },
  });
  connectTls({ socket: wire, minVersion: "TLSv1.3" }).on("error", () => undefined);
  return await promise;
}

async function main(): Promise<void> {
  const [host = "", ...numbers] = process.argv.slice(2);
  const [port = 0, count = 0, perSecond = 0] = numbers.map(Number);
  const hello = await clientHello();
  const open = new Set<Socket>();
  let made = 0;
  const add = async () => {
    const isSilent = made++ % 2 === 0;
    const socket = connect({ host, port, noDelay: true });
    socket.on("error", () => undefined).resume();
    socket.on("close", () => open.delete(socket));
    open.add(socket);
    await once(socket, "connect").catch(() => undefined);
    if (!isSilent) socket.write(hello);
  };
  const addMany = (many: number) => Promise.all(Array.from({ length: Math.max(0, many) }, add));
  while (made < count) await addMany(Math.min(atOnce, count - made));
  console.log("all were there");
  for (;;) {
    console.log(`${open.size} open, ${made} made`);
    await Promise.all([addMany(Math.min(perSecond, count - open.size)), sleep(1_000)]);
  }
}

if (import.meta.main) await main();
