/** Podman's REST API (libpod v4) over its unix socket. */
import { Pool } from "undici";
import { UmsError } from "../../errors.ts";

export type PodmanApi = Readonly<{
  /** @returns the parsed JSON, or undefined where Podman answers without a body */
  call(request: { method: "GET" | "POST" | "DELETE"; path: string; body?: unknown; timeoutMs?: number; signal?: AbortSignal }): Promise<unknown>;
  close(): Promise<void>;
}>;

/** Podman answered with an error; `status` is HTTP's. */
export class PodmanError extends Error {
  override readonly name = "PodmanError";
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

const defaultTimeoutMs = 30_000;

export function createPodmanApi(socketPath: string): PodmanApi {
  // Several connections, because a start that the shim holds keeps one of them busy.
  const pool = new Pool("http://podman", { socketPath, connections: 16, pipelining: 1 });
  return {
    async call({ method, path, body, timeoutMs = defaultTimeoutMs, signal }) {
      const limit = AbortSignal.timeout(timeoutMs);
      try {
        const response = await pool.request({
          method,
          path: `/v4.0.0/libpod${path}`,
          headersTimeout: 0,
          bodyTimeout: 0,
          signal: signal ? AbortSignal.any([signal, limit]) : limit,
          ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } }),
        });
        const text = await response.body.text();
        if (response.statusCode >= 400) throw new PodmanError(response.statusCode, messageOf(text));
        return text === "" ? undefined : JSON.parse(text.startsWith("{") && text.includes("}\n{") ? (text.trim().split("\n").at(-1) ?? "null") : text);
      } catch (cause) {
        if (cause instanceof PodmanError) throw cause;
        signal?.throwIfAborted();
        if (limit.aborted) throw new UmsError("TIMED_OUT", `Podman did not answer ${method} ${path} within ${timeoutMs} ms.`, { cause });
        throw new UmsError("PODMAN_UNREACHABLE", `Podman's socket ${socketPath} does not answer.`, { cause });
      }
    },
    close: () => pool.close(),
  };
}

function messageOf(text: string): string {
  try {
    const { message, cause } = JSON.parse(text) as { message?: string; cause?: string };
    return message ?? cause ?? text;
  } catch {
    return text;
  }
}
