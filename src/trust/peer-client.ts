import type { IncomingMessage } from "node:http";
import { Agent, request as httpsRequest, type RequestOptions } from "node:https";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { TLSSocket } from "node:tls";
import { type ErrorCode, errorTable, UmsError } from "../errors.ts";
import { parseAddress } from "../protocol/address.ts";
import type { Role } from "./identity.ts";
import type { Trust } from "./trust.ts";

/** How this site calls one paired site, or one part of itself. */
export type PeerClient = Readonly<{
  /**
   * Sends a request and answers the parsed JSON (undefined where the answer has no body). It may be sent twice
   * where a kept connection breaks, so what it asks for must be idempotent.
   * @throws UmsError the peer's own code; SITE_UNREACHABLE; TIMED_OUT; PEER_FAILED; SITE_NOT_FOUND once unpaired
   */
  request<T = unknown>(options: PeerRequest): Promise<T>;
  /** Opens the connection that carries a migration's data; its errors are the caller's to hear. @throws like {@link PeerClient.request} */
  openData(options: DataRequest): Promise<TLSSocket>;
  /** Ends the kept connection, and requests under way with SITE_UNREACHABLE; not the connections of {@link PeerClient.openData}. */
  close(): void;
}>;

export type PeerRequest = Readonly<{ method: string; path: string; body?: unknown; signal?: AbortSignal; timeoutMs?: number }>;

/** `headers` tell the receiver more than the migration's id. */
export type DataRequest = Readonly<{ migrationId: string; signal: AbortSignal; headers?: Readonly<Record<string, string>> }>;

/** Who is called, and how it is known. */
type Party = Readonly<{
  /** For people. */
  who: string;
  /** @throws UmsError SITE_NOT_FOUND */
  addresses(): readonly string[];
  /** @throws UmsError SITE_NOT_FOUND */
  options(): ReturnType<Trust["connectOptions"]>;
  headers?: Readonly<Record<string, string>>;
}>;

const connectLimitMs = 4_000;
const droppedTries = 4;
const droppedPauseMs = 100;
const defaultTimeoutMs = 30_000;
const maxAnswerBytes = 16 * 1024 * 1024;

/** A client for one peer; keeps one warm TLS connection, so that a request in the downtime pays for no handshake. */
export function createPeerClient(trust: Trust, peerName: string): PeerClient {
  return createClient({
    who: `Site “${peerName}”`,
    addresses() {
      const peer = trust.peer(peerName);
      if (!peer) throw new UmsError("SITE_NOT_FOUND", `No site called “${peerName}” is paired.`);
      return peer.addresses;
    },
    options: () => trust.connectOptions(peerName),
  });
}

/** A client for the same peer's interfaces, which have an address of their own. */
export function createPeerInterfaceClient(trust: Trust, peerName: string, addresses: readonly string[]): PeerClient {
  return createClient({ who: `Site “${peerName}”`, addresses: () => addresses, options: () => trust.connectOptions(peerName, "node") });
}

/** A client for another part of this very site. @param part.role what it must be; @param part.headers go with each request */
export function createSelfClient(
  trust: Trust,
  { who, address, role, headers }: { who: string; address: string; role: Role; headers?: Readonly<Record<string, string>> },
): PeerClient {
  return createClient({
    who,
    addresses: () => [address],
    options: () => trust.connectToSelfOptions(role),
    ...(headers ? { headers } : {}),
  });
}

function createClient(party: Party): PeerClient {
  const { who } = party;
  // As many connections as there are requests at once: a restore that takes long must not delay a cancel.
  const agent = new Agent({
    keepAlive: true,
    keepAliveMsecs: 5_000,
    maxFreeSockets: 1,
    maxCachedSessions: 0,
    // An agent shares no connection between requests which bring a check of their own (Node 24.21), so the agent has it.
    checkServerIdentity(host, certificate) {
      // The peer may have been removed during the handshake, and what is thrown here nobody catches.
      try {
        return party.options().checkServerIdentity(host, certificate);
      } catch (cause) {
        return cause as Error;
      }
    },
  });
  /** The address that answered last is tried first. */
  let preferred: string | undefined;

  async function eachAddress<T>(attempt: (address: string) => Promise<T>): Promise<T> {
    const addresses = [...party.addresses()].sort((a, b) => Number(b === preferred) - Number(a === preferred));
    const failures: NotConnected[] = [];
    for (const address of addresses) {
      try {
        const result = await insisting(() => attempt(address));
        preferred = address;
        return result;
      } catch (error) {
        if (!(error instanceof NotConnected)) throw error;
        failures.push(error);
      }
    }
    const cause = failures.length === 1 ? failures[0] : new AggregateError(failures);
    throw new UmsError("SITE_UNREACHABLE", `${who} does not answer at ${addresses.join(", ")}.`, { cause });
  }

  const optionsFor = (address: string): RequestOptions => ({
    ...party.options(),
    ...parseAddress(address),
    headers: { ...party.headers, host: address },
  });

  return {
    async request<T>({ method, path, body, signal, timeoutMs = defaultTimeoutMs }: PeerRequest) {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const send = (address: string) => {
        const { checkServerIdentity: _agentHasIt, ...common } = optionsFor(address);
        const options: RequestOptions = { ...common, agent, method, path };
        if (text !== undefined) {
          options.headers = { ...options.headers, "content-type": "application/json", "content-length": Buffer.byteLength(text) };
        }
        return exchange({ options, text, who, signal, timeoutMs });
      };
      const answer = await eachAddress(async (address) => {
        try {
          return await send(address);
        } catch (error) {
          if (!(error instanceof StaleConnection)) throw error;
          return await send(address).catch((again: unknown) => {
            throw again instanceof StaleConnection ? new UmsError("SITE_UNREACHABLE", broken(who), { cause: again }) : again;
          });
        }
      });
      if (answer.status >= 300) throw problemFrom(answer, who);
      return answer.body as T;
    },

    async openData({ migrationId, signal, headers = {} }) {
      return await eachAddress((address) => {
        const options = { ...optionsFor(address), agent: false as const, path: `/peer/migrations/${migrationId}/data` };
        options.headers = { ...options.headers, ...headers, connection: "Upgrade", upgrade: "ums-data" };
        return upgrade({ options, who, signal });
      });
    },

    close: () => agent.destroy(),
  };
}

/** No connection came about, so another address may be tried. */
class NotConnected extends Error {}
/** Where strangers crowd, a site may have let a connection go for a newer one before it knew whose it was. */
async function insisting<T>(attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      const wasDropped = error instanceof NotConnected && (error.cause as NodeJS.ErrnoException).code === "ECONNRESET";
      if (!wasDropped || tries === droppedTries) throw error;
      await sleep(droppedPauseMs);
    }
  }
}

/** A kept connection turned out to be dead before anything was answered. */
class StaleConnection extends Error {}

const broken = (who: string) => `${who}: the connection broke.`;

type Call = { options: RequestOptions; who: string; signal?: AbortSignal | undefined };

async function exchange({ options, text, who, signal, timeoutMs }: Call & { text: string | undefined; timeoutMs: number }) {
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  using call = begin({ options, who, signal, timeoutMs }, reject);
  call.request.on("response", (response) => void readJson(response).then(resolve, call.fail));
  call.request.end(text);
  return await promise;
}

async function upgrade({ options, who, signal }: Call): Promise<TLSSocket> {
  const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
  using call = begin({ options, who, signal, timeoutMs: defaultTimeoutMs }, reject);
  call.request.on("upgrade", (_response: IncomingMessage, socket: Duplex, head: Buffer) => {
    const connection = socket as TLSSocket;
    connection.setTimeout(0);
    connection.setNoDelay(true);
    if (head.length > 0) connection.unshift(head);
    resolve(connection);
  });
  call.request.on("response", (response) => void readJson(response).then((answer) => reject(problemFrom(answer, who)), call.fail));
  call.request.end();
  return await promise;
}

/** Starts a request whose every failure comes out as one of the errors above or a UmsError; disposing of it ends its waits. */
function begin({ options, who, signal, timeoutMs }: Call & { timeoutMs: number }, reject: (error: Error) => void) {
  const request = httpsRequest(options);
  let connected = false;
  let answered = false;
  const fail = (cause: Error) => {
    if (cause instanceof UmsError) reject(cause);
    else if (!connected) reject(new NotConnected(`${options.host}:${options.port}: ${cause.message}`, { cause }));
    else if (request.reusedSocket && !answered) reject(new StaleConnection(cause.message, { cause }));
    else reject(new UmsError("SITE_UNREACHABLE", broken(who), { cause }));
  };
  const giveUp = (error: Error) => {
    reject(error);
    request.destroy();
  };
  const onAbort = () => {
    const reason: unknown = signal?.reason;
    giveUp(reason instanceof UmsError ? reason : new UmsError("CANCELLED", `${who}: the request was given up.`, { cause: reason }));
  };
  const connectTimer = setTimeout(() => request.destroy(new Error("The connection took too long.")), connectLimitMs);
  const answerTimer = setTimeout(() => {
    giveUp(new UmsError("TIMED_OUT", `${who} did not answer within ${timeoutMs / 1000} s.`));
  }, timeoutMs);
  const onConnected = () => {
    connected = true;
    clearTimeout(connectTimer);
  };
  request.on("socket", (socket) => {
    if (request.reusedSocket) onConnected();
    else socket.once("secureConnect", onConnected);
  });
  request.once("response", () => void (answered = true));
  request.on("error", fail);
  signal?.addEventListener("abort", onAbort);
  if (signal?.aborted) onAbort();
  return {
    request,
    fail,
    [Symbol.dispose]() {
      clearTimeout(connectTimer);
      clearTimeout(answerTimer);
      signal?.removeEventListener("abort", onAbort);
    },
  };
}

/** What a site answered. */
export type Answer = Readonly<{ status: number; body: unknown }>;

/** Reads a whole JSON answer of bounded size. */
export async function readJson(response: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > maxAnswerBytes) throw new Error("The answer is too long.");
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString();
  let body: unknown;
  try {
    body = text === "" ? undefined : JSON.parse(text);
  } catch (cause) {
    throw new UmsError("PEER_FAILED", "The other site's answer is not JSON.", { cause });
  }
  return { status: response.statusCode ?? 0, body };
}

/** The error which an answer stands for: the other site's own code, where this version knows it. */
export function problemFrom({ status, body }: Answer, who: string): UmsError {
  const { code, message } = (typeof body === "object" && body !== null ? body : {}) as { code?: unknown; message?: unknown };
  const known = typeof code === "string" && Object.hasOwn(errorTable, code) ? (code as ErrorCode) : undefined;
  const text = typeof message === "string" ? message.slice(0, 2_000) : `${who} answered with status ${status}.`;
  return new UmsError(known ?? (status === 401 ? "NOT_AUTHORISED" : "PEER_FAILED"), text);
}
