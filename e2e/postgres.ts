/**
 * A client which commits rows to a PostgreSQL all the time, over several connections, and says which commits were
 * acknowledged. A program of its own, so that it can run in another network namespace:
 *
 *     node e2e/postgres.ts HOST PORT CONNECTIONS TABLE
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Place } from "./place.ts";

const connectMs = 10_000;
const replyMs = 15_000;
const pauseMs = 5;

let tables = 0;

/** A client that runs until it is stopped. */
export type CommittingClient = Readonly<{
  /** Resolves when that many commits more than now are acknowledged. */
  more(count: number): Promise<void>;
  /** Ends the writing. @returns the rows whose commit was acknowledged, and what went wrong */
  stop(): Promise<{ table: string; acknowledged: number[]; refused: string[]; errors: string[] }>;
}>;

/** Starts the client; resolves when its first commit was acknowledged. */
export async function startCommitting(
  place: Place,
  { host, port, connections }: { host: string; port: number; connections: number },
): Promise<CommittingClient> {
  const table = `written_${++tables}`;
  const client = await place.spawn([process.execPath, fileURLToPath(import.meta.url), host, String(port), String(connections), table]);
  await client.waitForLine(/^committed /, 30_000);
  const linesOf = (kind: string) =>
    client
      .output()
      .split("\n")
      .flatMap((line) => (line.startsWith(`${kind} `) ? [line.slice(kind.length + 1)] : []));
  return {
    async more(count) {
      const wanted = linesOf("committed").length + count;
      for (const until = Date.now() + 30_000; linesOf("committed").length < wanted; await sleep(50)) {
        if (Date.now() > until) throw new Error(`PostgreSQL acknowledged no ${count} commits within 30 s: ${client.output().slice(-500)}`);
      }
    },
    async stop() {
      client.write("stop\n");
      await client.waitForLine(/^stopped$/, replyMs + connectMs);
      return { table, acknowledged: linesOf("committed").map(Number), refused: linesOf("refused"), errors: linesOf("error") };
    },
  };
}

/** The simple query protocol (PostgreSQL's documentation, “Frontend/Backend Protocol”), without a password. */
class Session {
  readonly #socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  readonly #errors: string[] = [];
  #waiting: PromiseWithResolvers<void> | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.on("error", () => undefined); // "close" follows
    socket.on("close", () => this.#waiting?.reject(new Cut()));
  }

  static async open(host: string, port: number): Promise<Session> {
    const socket = connect({ host, port });
    await once(socket, "connect", { signal: AbortSignal.timeout(connectMs) });
    const session = new Session(socket);
    const parameters = Buffer.from("user\0postgres\0database\0postgres\0\0");
    const head = Buffer.alloc(8);
    head.writeInt32BE(8 + parameters.length, 0);
    head.writeInt32BE(196_608, 4); // version 3.0
    await session.#send(Buffer.concat([head, parameters]));
    return session;
  }

  async query(text: string): Promise<void> {
    const body = Buffer.from(`${text}\0`);
    const head = Buffer.alloc(5);
    head.write("Q");
    head.writeInt32BE(4 + body.length, 1);
    await this.#send(Buffer.concat([head, body]));
  }

  /** Resolves when the server is ready for the next query. */
  async #send(message: Buffer): Promise<void> {
    if (this.#socket.destroyed) throw new Cut();
    this.#waiting = Promise.withResolvers<void>();
    const timer = setTimeout(() => this.#socket.destroy(), replyMs);
    try {
      this.#socket.write(message);
      await this.#waiting.promise;
    } finally {
      clearTimeout(timer);
    }
    const errors = this.#errors.splice(0);
    if (errors.length > 0) throw new Error(errors.join(" "));
  }

  #read(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    while (this.#received.length >= 5) {
      const end = 1 + this.#received.readInt32BE(1);
      if (this.#received.length < end) return;
      const kind = String.fromCharCode(this.#received[0] ?? 0);
      if (kind === "E") this.#errors.push(this.#received.subarray(5, end).toString("utf8").split("\0").join(" "));
      this.#received = this.#received.subarray(end);
      if (kind === "Z") this.#waiting?.resolve();
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

class Cut extends Error {}

async function main(host: string, port: number, connections: number, table: string): Promise<void> {
  let stopped = false;
  let row = 0;
  process.stdin.on("data", () => (stopped = true));
  const setUp = await Session.open(host, port);
  await setUp.query(`create table ${table} (id bigint primary key, filler text)`);
  setUp.close();
  const write = async () => {
    let session: Session | undefined;
    while (!stopped) {
      const id = ++row;
      try {
        session ??= await Session.open(host, port);
      } catch (error) {
        console.log(`refused ${String(error)}`);
        await sleep(100);
        continue;
      }
      try {
        await session.query(`insert into ${table} values (${id}, repeat('filler', 50))`);
        console.log(`committed ${id}`);
      } catch (error) {
        if (!(error instanceof Cut)) console.log(`error ${String(error).replaceAll("\n", " ")}`);
        session.close();
        session = undefined; // a commit that was cut off is never repeated
      }
      await sleep(pauseMs);
    }
    session?.close();
  };
  await Promise.all(Array.from({ length: connections }, write));
  console.log("stopped");
  process.stdin.destroy();
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  await main(process.argv[2] ?? "", Number(process.argv[3]), Number(process.argv[4]), process.argv[5] ?? "");
