/**
 * Clients that hardly pause, and know afterwards how long the slowest of their attempts took. A program of its own, in one
 * file, so that it can run in another network namespace, and in a pod:
 *
 *     node busy-client.ts tcp HOST PORT [WORKERS]     a connection per request: greeting, one line, its answer, the end
 *     node busy-client.ts udp HOST PORT               one socket, twenty datagrams a second, each answered with itself
 *
 * Each line on stdin is answered with a JSON line about what has happened since the last one. Times are milliseconds.
 */
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Place, RunningProcess } from "./place.ts";

/** What {@link startBusyClient}'s attempts met. Those that are under way count with the time that they have taken so far. */
export type Attempts = Readonly<{
  succeeded: number;
  failures: readonly Readonly<{ phase: string; message: string; afterMs: number }>[];
  slowestMs: number;
  /** What the slowest one waited for. */
  slowestPhase: string;
}>;

/** What {@link startUdpFlow}'s socket met. */
export type Flow = Readonly<{ sent: number; answered: number; errors: number; longestGapMs: number; sinceLastAnswerMs: number }>;

/** A client that goes on until it is ended. */
export type BusyClient<Report> = Readonly<{ report(): Promise<Report>; kill(): Promise<void> }>;

const program = fileURLToPath(import.meta.url);
const connectLimitMs = 60_000;
/** Between two attempts: the service and the machine have something else to do, too. */
const pauseMs = 5;

/** @param start runs the arguments as a command where the client is to be; `node busy-client.ts` is put before them here */
export function startBusyClient(
  start: Pick<Place, "spawn">,
  {
    host,
    port,
    workers = 6,
    node = [process.execPath, program],
  }: { host: string; port: number; workers?: number; node?: readonly string[] },
): Promise<BusyClient<Attempts>> {
  return started(start.spawn([...node, "tcp", host, String(port), String(workers)]));
}

export function startUdpFlow(
  start: Pick<Place, "spawn">,
  { host, port, node = [process.execPath, program] }: { host: string; port: number; node?: readonly string[] },
): Promise<BusyClient<Flow>> {
  return started(start.spawn([...node, "udp", host, String(port)]));
}

async function started<Report>(starting: Promise<RunningProcess>): Promise<BusyClient<Report>> {
  const client = await starting;
  await client.waitForLine(/^\{"event":"served"/, 20_000);
  let reports = 0;
  return {
    async report() {
      const id = ++reports;
      client.write(`${id}\n`);
      const line = await client.waitForLine(new RegExp(`^{"event":"report","id":${id},`), 20_000);
      return (JSON.parse(line) as { report: Report }).report;
    },
    async kill() {
      client.kill("SIGKILL");
      await client.exited;
    },
  };
}

/** What all clients met since the last look, and for how long they may have been held meanwhile. */
export type Served = Readonly<{
  heldMs: number;
  attempts: readonly (Attempts & Readonly<{ where: string }>)[];
  flows: readonly (Flow & Readonly<{ where: string }>)[];
}>;

/** Clients by where they are. */
export type Crowd = Readonly<{
  clients: Map<string, BusyClient<Attempts>>;
  flows: Map<string, BusyClient<Flow>>;
  /** Lets them go on for a moment, so that an attempt that hangs shows. */
  look(heldMs: number): Promise<Served>;
  /** Ends all of them. */
  end(): Promise<void>;
}>;

export function createCrowd(): Crowd {
  const clients = new Map<string, BusyClient<Attempts>>();
  const flows = new Map<string, BusyClient<Flow>>();
  const reports = <Report>(of: ReadonlyMap<string, BusyClient<Report>>) =>
    Promise.all([...of].map(async ([where, client]) => ({ where, ...(await client.report()) })));
  return {
    clients,
    flows,
    async look(heldMs) {
      await sleep(1_500);
      return { heldMs, attempts: await reports(clients), flows: await reports(flows) };
    },
    async end() {
      await Promise.all([...clients.values(), ...flows.values()].map((client) => client.kill()));
      for (const each of [clients, flows]) each.clear();
    },
  };
}

/** What a client's own work, and a test's machine, may add to the hold. */
const graceMs = 1_000;

/** @returns in words what no client should meet; none: all were served as they should be */
export function complaints({ heldMs, attempts, flows }: Served): string[] {
  const said = (where: string, what: string) => `${where}: ${what} (held for ${Math.round(heldMs)} ms)`;
  return [
    ...attempts.flatMap(({ where, succeeded, failures, slowestMs, slowestPhase }) => [
      ...failures.map((failure) => said(where, JSON.stringify(failure))),
      ...(succeeded > 20 ? [] : [said(where, `${succeeded} attempts succeeded`)]),
      ...(slowestMs < heldMs + graceMs ? [] : [said(where, `${slowestMs} ms for its ${slowestPhase}`)]),
    ]),
    ...flows.flatMap(({ where, errors, longestGapMs, sinceLastAnswerMs }) => [
      ...(errors === 0 ? [] : [said(where, `${errors} datagrams were refused`)]),
      ...(longestGapMs < heldMs + graceMs ? [] : [said(where, `no datagram came back for ${longestGapMs} ms`)]),
      ...(sinceLastAnswerMs < 500 ? [] : [said(where, `the last datagram came back ${sinceLastAnswerMs} ms ago`)]),
    ]),
  ];
}

/** How long each client's slowest attempt took, beside the hold. */
export function slowest({ heldMs, attempts, flows }: Served): string {
  const each = attempts.map(({ where, slowestMs, succeeded }) => `${where} ${slowestMs} ms of ${succeeded}`);
  return [
    `held for ${Math.round(heldMs)} ms`,
    ...each,
    ...flows.map(({ where, longestGapMs }) => `datagrams ${where} ${longestGapMs} ms`),
  ].join("; ");
}

const say = (event: object) => console.log(JSON.stringify(event));

/** @returns what reports since the last call */
function ask({ host, port, workers }: { host: string; port: number; workers: number }): () => Attempts {
  const fresh = () => ({
    succeeded: 0,
    failures: [] as { phase: string; message: string; afterMs: number }[],
    slowestMs: 0,
    slowestPhase: "",
  });
  let seen = fresh();
  let isServed = false;
  const current = new Map<number, { startedAt: number; phase: string }>();
  const note = ({ startedAt, phase }: { startedAt: number; phase: string }) => {
    const ms = performance.now() - startedAt;
    if (ms > seen.slowestMs) Object.assign(seen, { slowestMs: ms, slowestPhase: phase });
  };
  const work = async (worker: number) => {
    for (;;) {
      const attempt = { startedAt: performance.now(), phase: "connect" };
      current.set(worker, attempt);
      try {
        await once({ host, port, attempt });
        seen.succeeded++;
        if (!isServed) say({ event: "served" });
        isServed = true;
      } catch (error) {
        const afterMs = Math.round(performance.now() - attempt.startedAt);
        seen.failures.push({ phase: attempt.phase, message: error instanceof Error ? error.message : String(error), afterMs });
      }
      note(attempt);
      current.delete(worker);
      await sleep(pauseMs);
    }
  };
  for (let worker = 0; worker < workers; worker++) void work(worker);
  return () => {
    for (const attempt of current.values()) note(attempt);
    const report = { ...seen, slowestMs: Math.round(seen.slowestMs) };
    seen = fresh();
    return report;
  };
}

async function once({ host, port, attempt }: { host: string; port: number; attempt: { phase: string } }): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect({ host, port });
  const limit = setTimeout(() => socket.destroy(new Error(`nothing within ${connectLimitMs} ms`)), connectLimitMs);
  let text = "";
  socket.on("connect", () => (attempt.phase = "greeting"));
  socket.on("data", (chunk: Buffer) => {
    text += chunk.toString();
    if (attempt.phase === "greeting" && text.includes("\n")) {
      attempt.phase = "answer";
      socket.write("x\n");
    }
  });
  socket.on("error", reject);
  socket.on("close", () =>
    text.endsWith("you said x\n") ? resolve() : reject(new Error(`the connection ended after ${JSON.stringify(text)}`)),
  );
  try {
    await promise;
  } finally {
    clearTimeout(limit);
  }
}

function sendDatagrams({ host, port }: { host: string; port: number }): () => Flow {
  let seen = { sent: 0, answered: 0, errors: 0, longestGapMs: 0 };
  let lastAnswer = performance.now();
  let isServed = false;
  const answered = () => {
    const now = performance.now();
    seen.answered++;
    seen.longestGapMs = Math.max(seen.longestGapMs, now - lastAnswer);
    lastAnswer = now;
    if (!isServed) say({ event: "served" });
    isServed = true;
  };
  const socket = createSocket("udp4")
    .on("message", answered)
    .on("error", () => seen.errors++);
  socket.connect(port, host, () => {
    setInterval(() => {
      seen.sent++;
      socket.send(String(seen.sent), (error) => error && seen.errors++);
    }, 50);
  });
  return () => {
    const sinceLastAnswerMs = Math.round(performance.now() - lastAnswer);
    const report = { ...seen, longestGapMs: Math.round(Math.max(seen.longestGapMs, sinceLastAnswerMs)), sinceLastAnswerMs };
    seen = { sent: 0, answered: 0, errors: 0, longestGapMs: 0 };
    return report;
  };
}

async function main(): Promise<void> {
  const [mode, host = "", port = "", workers = "6"] = process.argv.slice(2);
  const target = { host, port: Number(port) };
  const report = mode === "udp" ? sendDatagrams(target) : ask({ ...target, workers: Number(workers) });
  for await (const line of createInterface({ input: process.stdin })) say({ event: "report", id: Number(line), report: report() });
  process.exit(0);
}

// Where it is mounted from a ConfigMap its path is a link.
if (import.meta.main) await main();
