/** Podman's REST API (libpod v4) over its unix socket. By node:http: undici would be a third of what `ums serve` loads. */
import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { text } from "node:stream/consumers";
import { UmsError } from "../../errors.ts";

export type PodmanApi = Readonly<{
  /**
   * @returns the parsed JSON, or undefined where Podman answers without a body
   * @throws PodmanError; UmsError TIMED_OUT, PODMAN_UNREACHABLE; what the signal was aborted with
   */
  call(request: PodmanRequest): Promise<unknown>;
  /**
   * Podman's own, which its ping tells in a header: `/version` and `/info` look for the packages of its programs, which takes
   * half a second of a CPU (measured: 550 and 300 ms with 4.3.1).
   * @throws like {@link PodmanApi.call}
   */
  version(signal?: AbortSignal): Promise<string>;
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

type Answer = Readonly<{ status: number; headers: IncomingHttpHeaders; answer: string }>;

const defaultTimeoutMs = 30_000;

export function createPodmanApi(socketPath: string): PodmanApi {
  const agent = new Agent({ keepAlive: true, maxFreeSockets: 4 });

  function send({ method, path, body }: PodmanRequest, signal: AbortSignal): Promise<Answer> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const headers = payload === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) };
      request({ socketPath, agent, method, path: `/v4.0.0/libpod${path}`, headers, signal })
        .once("error", reject)
        .once("response", (response) => {
          const { statusCode: status = 0, headers: told } = response;
          void text(response).then((answer) => resolve({ status, headers: told, answer }), reject);
        })
        .end(payload);
    });
  }

  async function ask(wanted: PodmanRequest): Promise<Answer> {
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
    return answered;
  }

  return {
    async call(wanted) {
      const { answer } = await ask(wanted);
      return answer.trim() === "" ? undefined : (JSON.parse(answer) as unknown);
    },
    async version(signal) {
      const { headers } = await ask({ method: "GET", path: "/_ping", signal });
      return String(headers["libpod-api-version"] ?? "unknown");
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
