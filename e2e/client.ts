/**
 * A client which writes to a Redis all the time, checks every reply, and knows at the end whether anything
 * that was acknowledged is missing. A program of its own, so that it can run in another network namespace:
 *
 *     node e2e/client.ts redis --host H --port P [--every MS]     commands on stdin: verify, stop
 *     node e2e/client.ts line --host H --port P [--timeout MS]    prints the first line that a service says
 *
 * Prints JSON lines: events as they happen, and a summary for each command.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Place } from "./place.ts";
import { type Reply, ReplyReader, encodeCommand } from "./resp.ts";

/** What the client met. Times are milliseconds since the epoch. */
export type ClientSummary = Readonly<{
  acknowledgedWrites: number;
  /** Sent, and cut off before the reply came: they may or may not be there. */
  unansweredWrites: number;
  /** Acknowledged, and not there any more. */
  lostWrites: number;
  /** There more than once. */
  duplicatedWrites: number;
  /** Replies that a service which forgot or repeated something gives. */
  wrongReplies: number;
  /** Connects that were refused or took too long. */
  failedConnections: number;
  /** Connections that ended without the client's doing. */
  cutConnections: number;
  /** Longest time between two acknowledged writes since the last summary. */
  downtimeMs: number;
  downtimeFrom: number;
  downtimeTo: number;
  /** Median time of a write since the last summary. */
  medianReplyMs: number;
}>;

/** What a client is told. */
export type ClientOptions = Readonly<{
  host: string;
  port: number;
  everyMs?: number;
  connectTimeoutMs?: number;
  /** A connection that stays silent this long is given up, and counts as cut. */
  replyTimeoutMs?: number;
}>;

/** A client that runs in a host or in the wan. */
export type LoadClient = Readonly<{
  /** Stops writing for a moment, looks whether every acknowledged write is there, and goes on. */
  verify(): Promise<ClientSummary>;
  /** Verifies, and ends. */
  stop(): Promise<ClientSummary>;
  /** Ends it where it stands. */
  kill(): Promise<void>;
  /** What it printed so far, one JSON object a line. */
  output(): string;
}>;

/** Starts the client as a process of its own; resolves when its first write was acknowledged. */
export async function startClient(place: Place, { host, port, everyMs = 5 }: ClientOptions): Promise<LoadClient> {
  const program = fileURLToPath(import.meta.url);
  const options = ["--host", host, "--port", String(port), "--every", String(everyMs)];
  const client = await place.spawn([process.execPath, program, "redis", ...options]);
  await client.waitForLine(/"event":"first-write"/, 15_000);
  let commands = 0;
  const ask = async (command: string) => {
    const id = ++commands;
    client.write(`${command} ${id}\n`);
    const line = await client.waitForLine(new RegExp(`^{"event":"(summary|error)","id":${id},`), 60_000);
    const { event, ...answer } = JSON.parse(line) as { event: string; message?: string; summary: ClientSummary };
    if (event === "error") throw new Error(answer.message);
    return answer.summary;
  };
  return {
    verify: () => ask("verify"),
    stop: async () => {
      const summary = await ask("stop");
      await client.exited;
      return summary;
    },
    kill: async () => {
      client.kill("SIGKILL");
      await client.exited;
    },
    output: () => client.output(),
  };
}

/** The first line that a service says to who connects to it. */
async function firstLineOf({ host, port, timeoutMs = 10_000 }: { host: string; port: number; timeoutMs?: number }): Promise<string> {
  const socket = connect({ host, port });
  const timer = setTimeout(() => socket.destroy(new Error(`nothing from ${host}:${port} within ${timeoutMs} ms`)), timeoutMs);
  try {
    let text = "";
    for await (const chunk of socket.setEncoding("utf8") as AsyncIterable<string>) {
      text += chunk;
      if (text.includes("\n")) break;
    }
    if (!text.includes("\n")) throw new Error(`${host}:${port} closed the connection without a whole line: ${JSON.stringify(text)}`);
    return text.slice(0, text.indexOf("\n"));
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

/** {@link firstLineOf}, asked in a host or in the wan. */
export async function lineFrom(
  place: Place,
  { host, port, timeoutMs = 10_000 }: { host: string; port: number; timeoutMs?: number },
): Promise<string> {
  const options = ["--host", host, "--port", String(port), "--timeout", String(timeoutMs)];
  const { stdout } = await place.exec([process.execPath, fileURLToPath(import.meta.url), "line", ...options]);
  return stdout;
}

const now = () => performance.timeOrigin + performance.now();

/**
 * Appends 1, 2, 3 … to a list. The reply to an append is the list's length: one that is too short shows a
 * service that forgot, one that is too long a service that repeated. The list itself shows at the end what is
 * missing or there twice. A write that was cut off is never repeated: its number may be there once, or not.
 */
class RedisWriter {
  readonly #options: Required<ClientOptions>;
  readonly #report: (event: Record<string, unknown>) => void;
  readonly #key = `ums-client-${process.pid}-${Math.round(now())}`;
  readonly #acknowledged: number[] = [];
  readonly #unanswered = new Set<number>();
  #connection: Connection | undefined;
  #sequence = 0;
  #length = 0;
  #mayStillCome = 0;
  #wrongReplies = 0;
  #failedConnections = 0;
  #cutConnections = 0;
  #lastReply: number | undefined;
  #gap = { downtimeMs: 0, downtimeFrom: 0, downtimeTo: 0 };
  #replyTimes: number[] = [];
  #stopped = false;
  #paused: Promise<void> | undefined;
  #running: Promise<void> | undefined;

  constructor(options: ClientOptions, report: (event: Record<string, unknown>) => void = () => undefined) {
    this.#options = { everyMs: 5, connectTimeoutMs: 10_000, replyTimeoutMs: 10_000, ...options };
    this.#report = report;
  }

  /** Writes until {@link end}. */
  start(): void {
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    let next = performance.now();
    while (!this.#stopped) {
      await this.#paused;
      const connection = await this.#connected();
      if (connection) await this.#write(connection);
      next = Math.max(next + this.#options.everyMs, performance.now());
      await sleep(Math.max(0, next - performance.now()));
    }
  }

  async #connected(): Promise<Connection | undefined> {
    if (this.#connection?.isOpen) return this.#connection;
    const { host, port, connectTimeoutMs, replyTimeoutMs } = this.#options;
    try {
      this.#connection = await Connection.open({ host, port, connectTimeoutMs, replyTimeoutMs });
      this.#report({ event: "connected", at: now() });
      return this.#connection;
    } catch (error) {
      this.#failedConnections++;
      this.#report({ event: "failed-connection", at: now(), message: String(error) });
      return undefined;
    }
  }

  async #write(connection: Connection): Promise<void> {
    const sequence = ++this.#sequence;
    const sent = now();
    let reply: Reply;
    try {
      reply = await connection.ask(["RPUSH", this.#key, String(sequence)]);
    } catch (error) {
      this.#unanswered.add(sequence);
      this.#mayStillCome++;
      this.#countCut(error);
      return;
    }
    const acknowledgedAt = now();
    if (typeof reply !== "number") {
      this.#wrongReplies++;
      this.#report({ event: "wrong-reply", at: acknowledgedAt, sequence, reply: String(reply) });
      return;
    }
    this.#acknowledged.push(sequence);
    if (this.#acknowledged.length === 1) this.#report({ event: "first-write", at: acknowledgedAt });
    // Each write that was cut off may have been done as well.
    if (reply <= this.#length || reply > this.#length + 1 + this.#mayStillCome) {
      this.#wrongReplies++;
      this.#report({ event: "wrong-reply", at: acknowledgedAt, sequence, reply, expected: this.#length + 1 });
    }
    // A kernel may deliver what was cut off later than what came after it.
    this.#mayStillCome -= Math.max(0, Math.min(this.#mayStillCome, reply - this.#length - 1));
    this.#length = reply;
    this.#replyTimes.push(acknowledgedAt - sent);
    const gap = acknowledgedAt - (this.#lastReply ?? acknowledgedAt);
    if (gap > this.#gap.downtimeMs) this.#gap = { downtimeMs: gap, downtimeFrom: acknowledgedAt - gap, downtimeTo: acknowledgedAt };
    this.#lastReply = acknowledgedAt;
  }

  #countCut(error: unknown): void {
    this.#cutConnections++;
    this.#connection = undefined;
    this.#report({ event: "cut-connection", at: now(), message: String(error) });
  }

  /** Looks for every acknowledged write, while it writes nothing. */
  async verify(): Promise<ClientSummary> {
    const resume = Promise.withResolvers<undefined>();
    this.#paused = resume.promise;
    const began = now();
    try {
      const stored = await this.#readList();
      const times = new Map<number, number>();
      for (const sequence of stored) times.set(sequence, (times.get(sequence) ?? 0) + 1);
      const sorted = this.#replyTimes.toSorted((one, other) => one - other);
      const summary = {
        acknowledgedWrites: this.#acknowledged.length,
        unansweredWrites: this.#unanswered.size,
        lostWrites: this.#acknowledged.filter((sequence) => !times.has(sequence)).length,
        duplicatedWrites: [...times.values()].filter((count) => count > 1).length,
        wrongReplies: this.#wrongReplies,
        failedConnections: this.#failedConnections,
        cutConnections: this.#cutConnections,
        ...this.#gap,
        medianReplyMs: sorted[Math.floor(sorted.length / 2)] ?? 0,
      };
      this.#gap = { downtimeMs: 0, downtimeFrom: 0, downtimeTo: 0 };
      this.#replyTimes = [];
      return summary;
    } finally {
      // The pause was the client's own, and is no downtime.
      if (this.#lastReply !== undefined) this.#lastReply += now() - Math.max(began, this.#lastReply);
      this.#paused = undefined;
      resume.resolve(undefined);
    }
  }

  async #readList(): Promise<number[]> {
    const { host, port, connectTimeoutMs, replyTimeoutMs } = this.#options;
    // A connection of its own: the writer's may be waiting for a reply.
    const connection = await Connection.open({ host, port, connectTimeoutMs, replyTimeoutMs });
    try {
      const acknowledgedBefore = this.#acknowledged.length;
      const list: number[] = [];
      const step = 10_000;
      for (let from = 0; ; from += step) {
        const part = await connection.ask(["LRANGE", this.#key, String(from), String(from + step - 1)]);
        if (!Array.isArray(part)) throw new Error(`LRANGE was answered with ${String(part)}`);
        list.push(...part.map(Number));
        if (part.length < step) break;
      }
      // The write that was under way when the pause began may have been acknowledged meanwhile: then look again.
      return this.#acknowledged.length === acknowledgedBefore ? list : await this.#readList();
    } finally {
      connection.close();
    }
  }

  /** Ends the writing; nothing else. */
  async end(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#connection?.close();
  }
}

type ConnectionOptions = Required<Omit<ClientOptions, "everyMs">>;

/** One command at a time over one TCP connection. */
class Connection {
  readonly #socket: Socket;
  readonly #replyTimeoutMs: number;
  readonly #reader = new ReplyReader();
  #waiting: PromiseWithResolvers<Reply> | undefined;
  #failure: Error | undefined;

  private constructor(socket: Socket, replyTimeoutMs: number) {
    this.#socket = socket;
    this.#replyTimeoutMs = replyTimeoutMs;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => {
      for (const reply of this.#reader.read(chunk)) this.#waiting?.resolve(reply);
    });
    socket.on("error", (error) => (this.#failure ??= error));
    socket.on("close", () => {
      this.#failure ??= new Error("the connection was closed");
      this.#waiting?.reject(this.#failure);
    });
  }

  static async open({ host, port, connectTimeoutMs, replyTimeoutMs }: ConnectionOptions): Promise<Connection> {
    const socket = connect({ host, port });
    const timer = setTimeout(() => socket.destroy(new Error(`no connection within ${connectTimeoutMs} ms`)), connectTimeoutMs);
    try {
      await once(socket, "connect");
    } finally {
      clearTimeout(timer);
    }
    return new Connection(socket, replyTimeoutMs);
  }

  /** Open as far as is known; one that was cut since the last command says so at the next. */
  get isOpen(): boolean {
    return this.#waiting === undefined;
  }

  async ask(command: readonly string[]): Promise<Reply> {
    if (this.#failure) throw this.#failure;
    this.#waiting = Promise.withResolvers<Reply>();
    const timer = setTimeout(() => this.#socket.destroy(new Error(`no reply within ${this.#replyTimeoutMs} ms`)), this.#replyTimeoutMs);
    this.#socket.write(encodeCommand(command));
    try {
      return await this.#waiting.promise;
    } finally {
      clearTimeout(timer);
      this.#waiting = undefined;
    }
  }

  close(): void {
    this.#socket.destroy();
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { host: { type: "string" }, port: { type: "string" }, every: { type: "string" }, timeout: { type: "string" } },
  });
  if (values.host === undefined || values.port === undefined) throw new Error("--host and --port are needed");
  const target = { host: values.host, port: Number(values.port) };
  const say = (event: Record<string, unknown>) => console.log(JSON.stringify(event));
  if (positionals[0] === "line") {
    console.log(await firstLineOf({ ...target, timeoutMs: Number(values.timeout ?? 10_000) }));
    return;
  }
  const writer = new RedisWriter({ ...target, everyMs: Number(values.every ?? 5) }, say);
  writer.start();
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, id] = line.trim().split(" ");
    try {
      say({ event: "summary", id: Number(id), summary: await writer.verify() });
    } catch (error) {
      say({ event: "error", id: Number(id), message: String(error) });
    }
    if (command === "stop") break;
  }
  await writer.end();
  // Paused only, it would keep the process.
  process.stdin.destroy();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
