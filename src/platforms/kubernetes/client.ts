/**
 * The API server as UMS uses it. Objects stay as they are on the wire: client-node's generated calls drop every field
 * that their version doesn't know, and a pod that moves must keep them all.
 */
import type { IncomingMessage } from "node:http";
import { Agent, request as httpsRequest } from "node:https";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { type ErrorCode, UmsError } from "../../errors.ts";
import type { Connection } from "./connection.ts";
import type { Kind, KubernetesObject, Metadata } from "./kinds.ts";

/** Aborts a call; its reason is what the call rejects with. */
type Abortable = { signal?: AbortSignal | undefined };
type InNamespace = Abortable & {
  /** The connection's own namespace, where it is left out. */
  namespace?: string | undefined;
};
/** Which objects; a namespace of `undefined` means all of them. */
type Selection = { namespace: string | undefined; labelSelector?: string; fieldSelector?: string };

/** One operation of RFC 6902. */
export type PatchOperation =
  Readonly<{ op: "add" | "replace" | "test"; path: string; value: unknown }> | Readonly<{ op: "remove"; path: string }>;

export type Change<T> = Readonly<{ type: "present" | "gone"; object: T }>;

/** What a token is good for. */
export type User = Readonly<{ username: string; uid?: string; groups?: string[]; extra?: Record<string, string[]> }>;
export type Access = Readonly<{
  verb: string;
  group?: string;
  resource: string;
  subresource?: string;
  namespace?: string;
  name?: string;
}>;

/** Every call rejects with {@link ClusterError}, or with the reason for which its signal was aborted. */
export type Cluster = Readonly<{
  namespace: string;
  get<T extends object>(kind: Kind<T>, name: string, options?: InNamespace): Promise<T | undefined>;
  list<T extends object>(kind: Kind<T>, options: Selection & Abortable): Promise<{ items: T[]; resourceVersion: string }>;
  /**
   * With `dryRun`, everything is judged, admission too, and nothing is stored. With `strict`, a field that the server
   * doesn't know is refused; else it is dropped.
   */
  create<T extends object>(kind: Kind<T>, object: T, options?: InNamespace & { dryRun?: boolean; strict?: boolean }): Promise<T>;
  /** Replaces the whole object; one with a resourceVersion, only if that is still the newest. */
  replace<T extends object>(kind: Kind<T>, object: T, options?: InNamespace & { subresource?: "status" }): Promise<T>;
  /** An array is a JSON patch (RFC 6902), an object a merge patch (RFC 7386). */
  patch<T extends object>(
    kind: Kind<T>,
    name: string,
    patch: readonly PatchOperation[] | object,
    options?: InNamespace & { subresource?: "status" },
  ): Promise<T>;
  /** @returns false where there was none, or only one with another uid */
  delete<T extends object>(kind: Kind<T>, name: string, options?: InNamespace & { uid?: string; graceSeconds?: number }): Promise<boolean>;
  /**
   * Yields what is there, then what changes, over broken connections and a stopped API server, until the signal
   * aborts: then it ends. After a gap an object comes once, in its newest form; one that went meanwhile comes as
   * gone. `onTrouble` hears why it is behind.
   */
  watch<T extends KubernetesObject>(
    kind: Kind<T>,
    options: Selection & { signal: AbortSignal; onTrouble?: (error: unknown) => void },
  ): AsyncGenerator<Change<T>, void, undefined>;
  /** Whom a bearer token belongs to; undefined where it is none, or for none of these audiences. */
  reviewToken(token: string, options?: Abortable & { audiences?: string[] }): Promise<User | undefined>;
  isAllowed(user: User, access: Access, options?: Abortable): Promise<boolean>;
  close(): void;
}>;

/** An answer of the API server that is no success, or none. `status` is undefined where none came. */
export class ClusterError extends UmsError {
  readonly status: number | undefined;
  constructor(code: ErrorCode, detail: string, { status, cause }: { status?: number | undefined; cause?: unknown } = {}) {
    super(code, detail, { cause });
    this.status = status;
  }
}

const requestLimitMs = 30_000;
const connectLimitMs = 5_000;
/** How long one watch lasts before it is opened anew; a connection that died unnoticed costs no more than this. */
const watchSeconds = 240;
const firstPauseMs = 100;
const longestPauseMs = 5_000;
const pageSize = 500;

export function openCluster(connection: Connection, { limitMs = requestLimitMs }: { limitMs?: number } = {}): Cluster {
  // Kept warm: a journal write in the downtime should pay for no handshake.
  const agent = new Agent({ keepAlive: true, keepAliveMsecs: 5_000, maxFreeSockets: 4, scheduling: "lifo" });

  async function send(call: Call): Promise<IncomingMessage> {
    const credentials = await connection.credentials();
    const { signal } = call;
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const url = new URL(connection.server);
    url.pathname = url.pathname.replace(/\/$/, "") + call.path;
    for (const [key, value] of Object.entries(call.query ?? {})) if (value !== undefined) url.searchParams.set(key, String(value));
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    const request = httpsRequest(url, {
      ...credentials,
      agent,
      method: call.method,
      headers: {
        ...credentials.headers,
        accept: "application/json",
        "user-agent": "ums",
        ...(body === undefined
          ? {}
          : { "content-type": call.contentType ?? "application/json", "content-length": Buffer.byteLength(body) }),
      },
    });
    const onAbort = () => request.destroy(new Error("aborted"));
    const connecting = setTimeout(() => request.destroy(new Error("The connection took too long.")), connectLimitMs);
    request.on("socket", (socket) => {
      if (request.reusedSocket) clearTimeout(connecting);
      else socket.once("secureConnect", () => clearTimeout(connecting));
    });
    request.on("response", (response) => {
      // Whoever reads it hears of it; one that is left half-read must not end the process.
      response.on("error", () => undefined);
      response.on("close", () => signal.removeEventListener("abort", onAbort));
      resolve(response);
    });
    request.on("error", reject);
    request.on("close", () => clearTimeout(connecting));
    signal.addEventListener("abort", onAbort);
    request.end(body);
    try {
      return await promise;
    } catch (cause) {
      signal.removeEventListener("abort", onAbort);
      // A kept connection that the server had closed: nothing was answered on it, and what UMS writes can be written twice.
      if (request.reusedSocket && !signal.aborted && (cause as NodeJS.ErrnoException).code === "ECONNRESET") return await send(call);
      throw cause;
    }
  }

  async function call<T>(options: Omit<Call, "signal"> & Abortable): Promise<T> {
    const limit = AbortSignal.timeout(limitMs);
    const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
    try {
      const response = await send({ ...options, signal });
      const text = await readText(response);
      if (response.statusCode === undefined || response.statusCode >= 300) throw errorFrom(response.statusCode, text);
      return JSON.parse(text) as T;
    } catch (cause) {
      throw failureOf(cause, options.signal, limit);
    }
  }

  const namespaceOf = (kind: Kind<object>, options: InNamespace, object?: KubernetesObject) =>
    kind.namespaced ? (options.namespace ?? object?.metadata?.namespace ?? connection.namespace) : undefined;

  const cluster: Cluster = {
    namespace: connection.namespace,

    async get<T extends object>(kind: Kind<T>, name: string, options: InNamespace = {}) {
      try {
        return await call<T>({ method: "GET", path: pathOf(kind, namespaceOf(kind, options), name), signal: options.signal });
      } catch (error) {
        if (error instanceof ClusterError && error.code === "OBJECT_GONE") return undefined;
        throw error;
      }
    },

    async list<T extends object>(kind: Kind<T>, { namespace, labelSelector, fieldSelector, signal }: Selection & Abortable) {
      for (let attempt = 1; ; attempt++) {
        const items: T[] = [];
        try {
          for (let next: string | undefined; ;) {
            const page: List<T> = await call({
              method: "GET",
              path: pathOf(kind, namespace),
              query: { labelSelector, fieldSelector, limit: pageSize, continue: next },
              signal,
            });
            // Items of a list don't say what they are.
            items.push(...page.items.map((item) => ({ apiVersion: kind.apiVersion, kind: kind.kind, ...item })));
            next = page.metadata.continue;
            if (!next) return { items, resourceVersion: page.metadata.resourceVersion ?? "" };
          }
        } catch (error) {
          // The pages' snapshot was compacted away between two of them.
          if (!(error instanceof ClusterError && error.status === 410) || attempt === 3) throw error;
        }
      }
    },

    async create<T extends object>(kind: Kind<T>, object: T, options: InNamespace & { dryRun?: boolean; strict?: boolean } = {}) {
      return await call<T>({
        method: "POST",
        path: pathOf(kind, namespaceOf(kind, options, object)),
        query: { dryRun: options.dryRun ? "All" : undefined, fieldValidation: options.strict ? "Strict" : undefined },
        body: { apiVersion: kind.apiVersion, kind: kind.kind, ...object },
        signal: options.signal,
      });
    },

    async replace<T extends object>(kind: Kind<T>, object: T, options: InNamespace & { subresource?: "status" } = {}) {
      const { name } = (object as KubernetesObject).metadata ?? {};
      return await call<T>({
        method: "PUT",
        path: pathOf(kind, namespaceOf(kind, options, object), name ?? "", options.subresource),
        body: { apiVersion: kind.apiVersion, kind: kind.kind, ...object },
        signal: options.signal,
      });
    },

    async patch<T extends object>(
      kind: Kind<T>,
      name: string,
      patch: readonly PatchOperation[] | object,
      options: InNamespace & { subresource?: "status" } = {},
    ) {
      return await call<T>({
        method: "PATCH",
        path: pathOf(kind, namespaceOf(kind, options), name, options.subresource),
        contentType: Array.isArray(patch) ? "application/json-patch+json" : "application/merge-patch+json",
        body: patch,
        signal: options.signal,
      });
    },

    async delete<T extends object>(kind: Kind<T>, name: string, options: InNamespace & { uid?: string; graceSeconds?: number } = {}) {
      try {
        await call({
          method: "DELETE",
          path: pathOf(kind, namespaceOf(kind, options), name),
          body: {
            apiVersion: "v1",
            kind: "DeleteOptions",
            propagationPolicy: "Background",
            ...(options.graceSeconds === undefined ? {} : { gracePeriodSeconds: options.graceSeconds }),
            ...(options.uid === undefined ? {} : { preconditions: { uid: options.uid } }),
          },
          signal: options.signal,
        });
        return true;
      } catch (error) {
        const otherUid = options.uid !== undefined && error instanceof ClusterError && error.code === "OBJECT_CHANGED";
        if (otherUid || (error instanceof ClusterError && error.code === "OBJECT_GONE")) return false;
        throw error;
      }
    },

    async *watch<T extends KubernetesObject>(
      kind: Kind<T>,
      { signal, onTrouble, ...selection }: Selection & { signal: AbortSignal; onTrouble?: (error: unknown) => void },
    ): AsyncGenerator<Change<T>, void, undefined> {
      const known = new Map<string, T>();
      let since: string | undefined;
      let pauseMs = firstPauseMs;
      while (!signal.aborted) {
        try {
          if (since === undefined) {
            const { items, resourceVersion } = await cluster.list(kind, { ...selection, signal });
            const there = new Set(items.map(keyOf));
            for (const [key, object] of known) {
              if (there.has(key)) continue;
              known.delete(key);
              yield { type: "gone", object };
            }
            for (const object of items) {
              const before = known.get(keyOf(object));
              if (before?.metadata?.resourceVersion === object.metadata?.resourceVersion && before) continue;
              known.set(keyOf(object), object);
              yield { type: "present", object };
            }
            since = resourceVersion;
          }
          for await (const { type, object } of follow<T>(kind, selection, since, signal)) {
            pauseMs = firstPauseMs;
            since = object.metadata?.resourceVersion ?? since;
            if (type === "BOOKMARK") continue;
            if (type === "DELETED") known.delete(keyOf(object));
            else known.set(keyOf(object), object);
            yield { type: type === "DELETED" ? "gone" : "present", object };
          }
          // A server that ends each watch at once must not be asked without a pause.
          await sleep(firstPauseMs, undefined, { signal });
        } catch (error) {
          // Both the generator's end and the abort may come while a call is under way.
          if (hasAborted(signal)) return;
          // What came since is no longer told one by one.
          if (error instanceof ClusterError && error.status === 410) since = undefined;
          else {
            onTrouble?.(error);
            await sleep(pauseMs * (0.5 + Math.random()), undefined, { signal }).catch(() => undefined);
            pauseMs = Math.min(pauseMs * 2, longestPauseMs);
          }
        }
      }
    },

    async reviewToken(token, { signal, audiences } = {}) {
      const { status } = await call<{ status?: { authenticated?: boolean; user?: User; audiences?: string[] } }>({
        method: "POST",
        path: "/apis/authentication.k8s.io/v1/tokenreviews",
        body: { apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: { token, ...(audiences ? { audiences } : {}) } },
        signal,
      });
      // A server, or an authenticator, that knows nothing of audiences tells none.
      const isMeant = audiences === undefined || audiences.some((each) => status?.audiences?.includes(each));
      return status?.authenticated === true && isMeant ? status.user : undefined;
    },

    async isAllowed({ username, uid, groups, extra }, access, { signal } = {}) {
      const { status } = await call<{ status?: { allowed?: boolean } }>({
        method: "POST",
        path: "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        body: {
          apiVersion: "authorization.k8s.io/v1",
          kind: "SubjectAccessReview",
          spec: { user: username, uid, groups, extra, resourceAttributes: access },
        },
        signal,
      });
      return status?.allowed === true;
    },

    close: () => agent.destroy(),
  };
  return cluster;

  /** One watch, from its first event to its end. */
  async function* follow<T extends KubernetesObject>(kind: Kind<T>, selection: Selection, since: string, signal: AbortSignal) {
    // The generator may be left at any yield: then its connection goes too.
    const stop = new AbortController();
    const answerLimit = setTimeout(() => stop.abort(new Error("The watch was not answered.")), limitMs);
    const overdue = setTimeout(() => stop.abort(new Error("The watch did not end in time.")), watchSeconds * 1000 + 30_000).unref();
    const both = AbortSignal.any([signal, stop.signal]);
    try {
      const response = await send({
        method: "GET",
        path: pathOf(kind, selection.namespace),
        query: {
          watch: true,
          allowWatchBookmarks: true,
          resourceVersion: since,
          timeoutSeconds: watchSeconds,
          labelSelector: selection.labelSelector,
          fieldSelector: selection.fieldSelector,
        },
        signal: both,
      });
      clearTimeout(answerLimit);
      if (response.statusCode !== 200) throw errorFrom(response.statusCode, await readText(response));
      // Linux then asks every second after five silent ones, and gives up after ten.
      response.socket.setKeepAlive(true, 5_000);
      for await (const line of linesOf(response)) {
        const event = JSON.parse(line) as { type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR"; object: T };
        if (event.type === "ERROR") throw errorFrom((event.object as { code?: number }).code, JSON.stringify(event.object));
        yield { type: event.type, object: event.object };
      }
    } catch (cause) {
      throw failureOf(cause, signal, stop.signal);
    } finally {
      clearTimeout(answerLimit);
      clearTimeout(overdue);
      stop.abort();
    }
  }
}

type Call = Readonly<{
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  path: string;
  query?: Record<string, string | number | boolean | undefined>;
  body?: unknown;
  contentType?: string;
  signal: AbortSignal;
}>;

type List<T> = { items: T[]; metadata: { resourceVersion?: string; continue?: string } };

/** Where the API server has the objects of a kind, or one of them. */
export function pathOf({ apiVersion, plural }: Kind<object>, namespace: string | undefined, name?: string, subresource?: string): string {
  const parts = [
    apiVersion.includes("/") ? "apis" : "api",
    apiVersion,
    ...(namespace === undefined ? [] : ["namespaces", encodeURIComponent(namespace)]),
    plural,
    ...(name === undefined ? [] : [encodeURIComponent(name)]),
    ...(subresource === undefined ? [] : [subresource]),
  ];
  return `/${parts.join("/")}`;
}

/** An object that was deleted and made anew is another one. */
function keyOf({ metadata }: { metadata?: Metadata }): string {
  return `${metadata?.namespace ?? ""}/${metadata?.name ?? ""}/${metadata?.uid ?? ""}`;
}

function hasAborted(signal: AbortSignal): boolean {
  return signal.aborted;
}

async function readText(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** Node's readline leaves an error that comes after its end to nobody, which ends the process (24.21). */
async function* linesOf(response: IncomingMessage): AsyncGenerator<string, void, undefined> {
  const decoder = new StringDecoder();
  let rest = "";
  for await (const chunk of response as AsyncIterable<Buffer>) {
    const lines = (rest + decoder.write(chunk)).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
}

type Status = { message?: string; reason?: string };

/** What an answer stands for that is no success. */
function errorFrom(status: number | undefined, text: string): ClusterError {
  let answer: Status = {};
  try {
    answer = JSON.parse(text) as Status;
  } catch {
    // A proxy before the API server, or an API server that only starts, may answer anything.
  }
  const message = (answer.message ?? text).slice(0, 2_000) || `The API server answered with status ${status}.`;
  return new ClusterError(codeOf(status, answer.reason, message), message, { status });
}

function codeOf(status: number | undefined, reason: string | undefined, message: string): ErrorCode {
  switch (status) {
    case 401:
      return "CLUSTER_FORBIDS";
    case 403:
      // A quota and a policy answer 403 as well; only the text of RBAC's own refusal tells it apart.
      return /is forbidden: User "/.test(message) ? "CLUSTER_FORBIDS" : "CLUSTER_REFUSED";
    case 404:
    case 410:
      return "OBJECT_GONE";
    case 409:
      return reason === "AlreadyExists" ? "OBJECT_EXISTS" : "OBJECT_CHANGED";
    default:
      return status === undefined || status === 429 || status >= 500 ? "API_SERVER_UNREACHABLE" : "CLUSTER_REFUSED";
  }
}

function failureOf(cause: unknown, signal: AbortSignal | undefined, limit: AbortSignal): Error {
  if (signal?.aborted) return signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason));
  if (cause instanceof ClusterError) return cause;
  const detail = limit.aborted ? "no answer in time" : cause instanceof Error ? cause.message : String(cause);
  return new ClusterError("API_SERVER_UNREACHABLE", `The cluster's API server does not answer: ${detail}.`, { cause });
}
