/**
 * Talks to `ums serve` on its unix socket. By node:http, which is there already: loading undici would
 * take longer than most of what the CLI asks for.
 */
import { type IncomingMessage, request as httpRequest } from "node:http";
import { type ErrorCode, errorTable, UmsError } from "../../errors.ts";
import type { Migration } from "../coordinator/schema.ts";

export type Client = Readonly<{
  /** @throws UmsError what the site answered; SERVE_NOT_RUNNING; SOCKET_FORBIDDEN */
  call<T>(method: "GET" | "POST" | "DELETE", path: string, body?: unknown): Promise<T>;
  /** The migration now and at each change; ends when the migration or the connection has ended. */
  events(id: string, signal: AbortSignal): AsyncIterable<Migration>;
}>;

export function createClient(socketPath: string): Client {
  async function send(method: string, path: string, { body, signal }: { body?: unknown; signal?: AbortSignal }): Promise<IncomingMessage> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const headers = text === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) };
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const request = httpRequest({ socketPath, method, path, headers, agent: false, ...(signal && { signal }) }, resolve);
    request.on("error", (error) => reject(connectionError(error, socketPath)));
    request.end(text);
    const response = await promise;
    response.setEncoding("utf8");
    if ((response.statusCode ?? 0) >= 400) throw problem(await read(response));
    return response;
  }

  return {
    async call<T>(method: string, path: string, body?: unknown) {
      const text = await read(await send(method, path, { body }));
      return (text === "" ? undefined : JSON.parse(text)) as T;
    },
    async *events(id, signal) {
      const response = await send("GET", `/migrations/${id}/events`, { signal });
      let rest = "";
      for await (const chunk of response) {
        rest += chunk as string;
        const events = rest.split("\n\n");
        rest = events.pop() ?? "";
        for (const event of events) {
          const [, kind, data] = /^event: (.*)\ndata: (.*)$/.exec(event) ?? [];
          if (kind === "problem") throw problem(data ?? "");
          if (kind === "migration" && data !== undefined) yield JSON.parse(data) as Migration;
        }
      }
    },
  };
}

async function read(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response) text += chunk as string;
  return text;
}

function problem(text: string): UmsError {
  let answer: { code?: string; message?: string };
  try {
    answer = JSON.parse(text) as typeof answer;
  } catch {
    answer = {};
  }
  const code = answer.code !== undefined && Object.hasOwn(errorTable, answer.code) ? (answer.code as ErrorCode) : "INTERNAL";
  return new UmsError(code, answer.message ?? "`ums serve` gave an answer that can't be read.");
}

function connectionError(error: NodeJS.ErrnoException, socketPath: string): UmsError {
  if (error.code === "EACCES" || error.code === "EPERM") {
    return new UmsError("SOCKET_FORBIDDEN", `The socket ${socketPath} may not be used by you.`, { cause: error });
  }
  return new UmsError("SERVE_NOT_RUNNING", `No \`ums serve\` answers on ${socketPath}.`, { cause: error });
}
