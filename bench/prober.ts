/**
 * `node prober.ts SOURCE DESTINATION PORT`: asks a Redis at the source until it falls silent, and at the destination
 * until it answers; prints the time between the last answer and the first as {"downtimeMs"}.
 * `node prober.ts --first DESTINATION PORT`: asks there until it answers; prints when as {"firstAt"}, milliseconds since 1970.
 */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const [source = "", destination = "", port = ""] = process.argv.slice(2);
const silentMs = 5_000;

/** One INCR on a fresh or given connection. */
function open(host: string): Promise<{ ask(): Promise<number>; close(): void }> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port), noDelay: true });
    const limit = setTimeout(() => socket.destroy(new Error("silent")), 500);
    socket.once("error", reject).once("connect", () => {
      clearTimeout(limit);
      resolve({
        ask: () =>
          new Promise((answer, fail) => {
            const silent = setTimeout(() => fail(new Error("silent")), silentMs);
            socket.once("data", (reply) => {
              clearTimeout(silent);
              if (reply[0] === 0x3a) answer(Date.now());
              else fail(new Error(reply.toString()));
            });
            socket.once("close", () => fail(new Error("closed")));
            socket.write("INCR probe\r\n");
          }),
        close: () => socket.destroy(),
      });
    });
  });
}

let last = 0;
async function askSource(): Promise<void> {
  const connection = await open(source);
  console.log("ready");
  try {
    while (true) {
      last = await connection.ask();
      await sleep(2);
    }
  } catch {
    connection.close();
  }
}

async function askDestination(): Promise<number> {
  for (const until = Date.now() + 180_000; Date.now() < until; await sleep(2)) {
    try {
      const connection = await open(destination);
      const first = await connection.ask();
      connection.close();
      return first;
    } catch {
      // not there yet
    }
  }
  throw new Error("The destination never answered.");
}

if (source === "--first") {
  console.log(JSON.stringify({ firstAt: await askDestination() }));
  process.exit(0);
}
const asking = askSource();
const first = await askDestination();
// What the source may still have answered meanwhile counts too.
await Promise.race([asking, sleep(200)]);
console.log(JSON.stringify({ downtimeMs: first - last }));
process.exit(0);
