/**
 * What an API server tells a test's own process: kubectl takes a tenth of a second of a CPU to start, too much for what is
 * asked again and again.
 */
import { request } from "node:http";
import { text } from "node:stream/consumers";
import { pathOf } from "../../src/platforms/kubernetes/client.ts";
import type { Kind } from "../../src/platforms/kubernetes/kinds.ts";
import type { Place } from "../place.ts";

/** Each call rejects with what the API server says, and where it doesn't answer within five seconds. */
export type ApiReader = Readonly<{
  /** @returns undefined where there is none */
  get<T extends object>(kind: Kind<T>, name: string, namespace?: string): Promise<T | undefined>;
  /** @param fields a field selector */
  list<T extends object>(kind: Kind<T>, options?: { labels?: string; fields?: string }): Promise<T[]>;
}>;

const limitMs = 5_000;

/** @param kubectl the command that starts it as an administrator @param socket a path that becomes the reader's */
export async function readApi({
  wan,
  kubectl,
  socket,
  stack,
}: {
  wan: Place;
  kubectl: readonly string[];
  socket: string;
  stack: AsyncDisposableStack;
}): Promise<ApiReader> {
  const proxy = await wan.spawn([...kubectl, "proxy", `--unix-socket=${socket}`]);
  stack.defer(async () => {
    proxy.kill();
    await proxy.exited;
  });
  await proxy.waitForLine(/^Starting to serve/);

  async function ask(path: string): Promise<{ status: number | undefined; body: string }> {
    const { promise, resolve, reject } = Promise.withResolvers<{ status: number | undefined; body: string }>();
    request({ socketPath: socket, path, headers: { host: "localhost" }, signal: AbortSignal.timeout(limitMs) })
      .once("error", reject)
      .once("response", (response) => void text(response).then((body) => resolve({ status: response.statusCode, body }), reject))
      .end();
    return await promise;
  }
  const expectFound = ({ status, body }: { status: number | undefined; body: string }) => {
    if (status !== 200) throw new Error(`The API server answers ${status}: ${body}`);
    return JSON.parse(body) as object;
  };
  const namespaceOf = ({ namespaced }: Kind<object>, namespace: string) => (namespaced ? namespace : undefined);

  return {
    async get<T extends object>(kind: Kind<T>, name: string, namespace = "default") {
      const answer = await ask(pathOf(kind, namespaceOf(kind, namespace), name));
      return answer.status === 404 ? undefined : (expectFound(answer) as T);
    },
    async list<T extends object>(kind: Kind<T>, { labels = "", fields = "" } = {}) {
      const query = new URLSearchParams({ labelSelector: labels, fieldSelector: fields }).toString();
      const { items } = expectFound(await ask(`${pathOf(kind, namespaceOf(kind, "default"))}?${query}`)) as { items: T[] };
      return items;
    },
  };
}
