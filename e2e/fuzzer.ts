/**
 * A fuzzer of one site, with the keys of the peer on whose host it runs. It reads a {@link FuzzOrder} from standard input and
 * prints a {@link FuzzReport}.
 */
import { once } from "node:events";
import { Agent as HttpAgent, type ClientRequest, type IncomingMessage, request as httpRequest } from "node:http";
import { Agent, request as httpsRequest } from "node:https";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { randomBytes } from "node:crypto";
import { parseAddress } from "../src/protocol/address.ts";
import { createPeerClient, type PeerClient } from "../src/trust/peer-client.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { openTrust, type Trust } from "../src/trust/trust.ts";
import { type Ask, conversations, requestsOf } from "./fuzz-inputs.ts";
import { drawn } from "./mutations.ts";
import type { TestSite } from "./sites.ts";

/** `requests` and `frames` go to the peer; `answers` has this site ask the peer, which plays the fuzzer (hostile-site.ts). */
export type FuzzOrder = Readonly<{ what: "requests" | "frames" | "answers"; need: object; seed: number; inputs: number; forMs: number }>;
export type FuzzReport = Readonly<{
  inputs: number;
  outcomes: Readonly<Record<string, number>>;
  slowestMs: number;
  complaints: readonly string[];
}>;

const patienceMs = 5_000;
const limitMs = 20_000;
const atOnce = 8;
const settleMs = 90_000;

/** Runs it on the host of `site`. */
export async function fuzz({ host, name }: TestSite, peer: TestSite, order: FuzzOrder): Promise<FuzzReport> {
  const { stdout } = await host.exec([process.execPath, import.meta.filename, name, peer.name], {
    input: JSON.stringify(order),
    timeoutMs: order.forMs + 120_000,
  });
  return JSON.parse(stdout.split("\n").at(-1) ?? "") as FuzzReport;
}

type Told = Readonly<{ status: number; code: string | undefined; ms: number }>;
type Tally = ReturnType<typeof createTally>;

/** Counts what came of each input, and keeps those that nobody should meet. */
function createTally() {
  const outcomes: Record<string, number> = {};
  const complaints: string[] = [];
  let slowestMs = 0;
  return {
    inputs: 0,
    count(outcome: string, ms: number, input: unknown) {
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      slowestMs = Math.max(slowestMs, ms);
      const isWrong = ms > patienceMs || /^500|INTERNAL|hangs/.test(outcome);
      if (isWrong && complaints.length < 20)
        complaints.push(`${outcome} after ${ms.toFixed()} ms: ${JSON.stringify(input ?? null).slice(0, 3_000)}`);
    },
    report(): FuzzReport {
      return { inputs: this.inputs, slowestMs, outcomes, complaints };
    },
  };
}

const newId = () => randomBytes(6).toString("hex");

type Caller = ReturnType<typeof createCaller>;

/** Requests by TLS with this site's keys, or to its own `ums serve`. */
function createCaller(trust: Trust, peer: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: atOnce });
  const local = new HttpAgent({ keepAlive: true });
  // Whose certificate it is matters to an honest client alone.
  const common = {
    agent,
    ...trust.connectOptions(peer),
    ...parseAddress(trust.peer(peer)?.addresses[0] ?? ""),
    checkServerIdentity: () => undefined,
  };
  const tell = async (request: ClientRequest, body: Buffer | undefined): Promise<Told & { answer: string }> => {
    const startedAt = performance.now();
    const { promise, resolve } = Promise.withResolvers<[number, string]>();
    request.on("timeout", () => request.destroy(new Error("hangs")));
    request.on("error", ({ message, code = message }: NodeJS.ErrnoException) =>
      resolve([0, `{"code":"${message === "hangs" ? message : code}"}`]),
    );
    request.on("response", (response: IncomingMessage) => {
      const broken = () => resolve([0, '{"code":"broken off"}']);
      void text(response).then((answer) => resolve([response.statusCode ?? 0, answer]), broken);
    });
    request.end(body);
    const [status, answer] = await promise;
    return { status, answer, code: /"code":"([^"]+)"/.exec(answer)?.[1], ms: performance.now() - startedAt };
  };
  return {
    peer: ({ method, path, body, headers = {} }: Ask) => tell(httpsRequest({ ...common, method, path, headers, timeout: limitMs }), body),
    own: ({ method, path, body, headers = {} }: Ask) =>
      tell(httpRequest({ agent: local, socketPath: "/run/ums/ums.sock", method, path, headers, timeout: limitMs }), body),
  };
}

const json = { "content-type": "application/json" };
const at = (id: string, method: string, action = ""): Ask => ({ method, path: `/peer/migrations/${id}${action}` });

type Work = Readonly<{ call: Caller; tally: Tally; order: FuzzOrder; peer: string; client: PeerClient; isOver(): boolean }>;

async function requests({ call, tally, order: { need, seed }, isOver }: Work): Promise<void> {
  let ids: string[] = [];
  const each = requestsOf(need, () => ids[Math.floor(Math.random() * ids.length)] ?? newId());
  for (let batch = 0; !isOver(); batch++) {
    ids = [newId(), newId(), newId()];
    const queue = drawn(each, { seed: seed + batch * 1_000, count: 800 });
    const worker = async () => {
      for (const ask of queue) {
        const { status, code = "", ms } = await call.peer(ask);
        tally.inputs++;
        tally.count(`${status} ${code}`, ms, { ...ask, body: ask.body?.toString("latin1") });
        if (isOver()) return;
      }
    };
    await Promise.all(Array.from({ length: atOnce }, worker));
    for (const id of ids) await call.peer(at(id, "DELETE"));
  }
}

async function frames({ call, tally, order: { need, seed, inputs }, client, isOver }: Work): Promise<void> {
  const all = drawn(conversations(), { seed, count: inputs });
  for (let turn = 0; !isOver(); turn++) {
    const id = newId();
    const put = { ...at(id, "PUT"), body: Buffer.from(JSON.stringify(need)), headers: json };
    // Memory is wanted once a container of the engine waits for it, and refused before.
    const steps = [put, at(id, "POST", "/create"), ...(turn % 2 === 1 ? [at(id, "POST", "/arm")] : [])];
    for (const step of steps) {
      const { status, code = "", ms } = await call.peer(step);
      tally.count(`reservation ${status} ${code}`, ms, step.path);
      if (status !== 200) await sleep(200);
    }
    for (let talk = 0; talk < 100 && !isOver(); talk++) {
      const next = all.next();
      if (next.done === true) break;
      const { bytes, frames: count } = next.value;
      const startedAt = performance.now();
      const outcome = await converse(client, id, bytes);
      tally.inputs += count;
      tally.count(outcome, performance.now() - startedAt, { id, bytes: bytes.toString("latin1") });
      if (outcome.startsWith("no connection")) break;
    }
    const { status, ms } = await call.peer(at(id, "DELETE"));
    tally.count(`undone ${status}`, ms, id);
  }
}

/** @returns how it ended */
async function converse(client: PeerClient, id: string, bytes: Buffer): Promise<string> {
  const opened = client.openData({ migrationId: id, signal: AbortSignal.timeout(limitMs) });
  const socket = await opened.catch((cause: unknown) => String(cause));
  if (typeof socket === "string") return `no connection: ${socket}`;
  let said = "";
  socket.on("error", () => undefined).on("data", (chunk: Buffer) => (said += chunk.toString()));
  const closed = once(socket, "close").then(() => true);
  socket.end(bytes);
  const ended = await Promise.race([closed, sleep(limitMs, false, { ref: false })]);
  socket.destroy();
  const refusal = /"ok":false(?:,"code":"([A-Z_]+)")?(.*)/.exec(said);
  const [, code, rest = ""] = refusal ?? [];
  return ended ? (refusal ? `refused ${code ?? rest}` : "taken") : "hangs";
}

/** Has this site ask the peer: what counts is what that one answers. */
async function answers({ call, tally, peer, isOver }: Work): Promise<void> {
  const asked = { method: "POST", body: Buffer.from(JSON.stringify({ name: "redis", to: peer })), headers: json };
  for (let turn = 0; !isOver(); turn++) {
    for (let plan = 0; plan < 10 && !isOver(); plan++) {
      const { status, code = "", ms } = await call.own({ ...asked, path: "/plan" });
      tally.inputs++;
      tally.count(`plan ${status} ${code}`, ms, plan);
    }
    const { status, code = "", ms } = await call.own({ ...asked, path: "/migrations" });
    tally.count(`migration ${status} ${code}`, ms, turn);
    const isOpen = async () => {
      const { answer } = await call.own({ method: "GET", path: "/migrations" });
      return (JSON.parse(answer) as { endedAt?: string }[]).some(({ endedAt }) => endedAt === undefined);
    };
    for (const end = Date.now() + settleMs; await isOpen(); await sleep(100))
      if (Date.now() > end) return tally.count("hangs: a migration does not end", settleMs, turn);
  }
}

async function main(): Promise<void> {
  const [site = "", peer = ""] = process.argv.slice(2);
  const order = JSON.parse(await text(process.stdin)) as FuzzOrder;
  const trust = await openTrust(openTrustFiles("/var/lib/ums"), site);
  const tally = createTally();
  const call = createCaller(trust, peer);
  const client = createPeerClient(trust, peer);
  const until = Date.now() + order.forMs;
  let done = false;
  const isOver = () => done || tally.inputs >= order.inputs || Date.now() > until;
  /** Somebody who only wants to know whether the site is well. */
  const look = () =>
    order.what === "answers" ? call.own({ method: "GET", path: "/migrations" }) : call.peer({ method: "GET", path: "/healthcheck" });
  const watch = (async () => {
    for (; !isOver(); await sleep(250)) {
      const { status, code = "", ms } = await look();
      tally.count(status === 200 ? "well" : `hangs: it is not well: ${status} ${code}`, ms, undefined);
    }
  })();
  await { requests, frames, answers }[order.what]({ call, tally, order, peer, client, isOver });
  done = true;
  await watch;
  client.close();
  console.log(`\n${JSON.stringify(tally.report())}`);
  process.exit(0);
}

if (import.meta.main) await main();
