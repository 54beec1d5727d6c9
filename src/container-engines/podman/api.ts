/** Podman's REST API (libpod v4) over its unix socket. By node:http: undici would be a third of what `ums serve` loads. */
import { Agent, request } from "node:http";
import { text } from "node:stream/consumers";
import { UmsError } from "../../errors.ts";

export type PodmanApi = Readonly<{
  /**
   * @returns the parsed JSON, or undefined where Podman answers without a body
   * @throws PodmanError; UmsError TIMED_OUT, PODMAN_UNREACHABLE; what the signal was aborted with
   */
  call(request: PodmanRequest): Promise<unknown>;
  /** Whether Podman answers; unlike its version and info, this waits for no container's lock, which a waiting shim holds. */
  ping(timeoutMs: number): Promise<boolean>;
  close(): void;
}>;

export type PodmanRequest = Readonly<{
  method: "GET" | "POST" | "DELETE";
  path: string;
  body?: unknown;
  timeoutMs?: number;
  signal?: AbortSignal | undefined;
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
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 4 });

  function send({ method, path, body }: PodmanRequest, signal: AbortSignal): Promise<{ status: number; answer: string }> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const headers = payload === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) };
      request({ socketPath, agent, method, path: `/v4.0.0/libpod${path}`, headers, signal })
        .once("error", reject)
        .once("response", (response) => void text(response).then((answer) => resolve({ status: response.statusCode ?? 0, answer }), reject))
        .end(payload);
    });
  }

  return {
    async call(wanted) {
      const { method, path, timeoutMs = defaultTimeoutMs, signal } = wanted;
      const limit = AbortSignal.timeout(timeoutMs);
      let answered;
      try {
        answered = await send(wanted, signal ? AbortSignal.any([signal, limit]) : limit);
      } catch (cause) {
        signal?.throwIfAborted();
        if (limit.aborted) throw new UmsError("TIMED_OUT", `Podman did not answer ${method} ${path} within ${timeoutMs} ms.`, { cause });
        throw new UmsError("PODMAN_UNREACHABLE", `Podman's socket ${socketPath} does not answer.`, { cause });
      }
      if (answered.status >= 400) throw new PodmanError(answered.status, messageOf(answered.answer));
      return answered.answer.trim() === "" ? undefined : (JSON.parse(answered.answer) as unknown);
    },
    ping: (timeoutMs) =>
      send({ method: "GET", path: "/_ping" }, AbortSignal.timeout(timeoutMs)).then(
        ({ status }) => status === 200,
        () => false,
      ),
    close: () => agent.destroy(),
  };
}

function messageOf(answer: string): string {
  try {
    const { message, cause } = JSON.parse(answer) as { message?: string; cause?: string };
    return message ?? cause ?? answer;
  } catch {
    return answer;
  }
}
