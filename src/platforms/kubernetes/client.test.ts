/** What a real API server does not do on request; the rest is in e2e/kubernetes-platform.e2e.test.ts. */
import { once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { createAuthority, createLeaf } from "../../trust/certificates.ts";
import { openCluster } from "./client.ts";
import { configMaps, type KubernetesObject, pods } from "./kinds.ts";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(handler: Handler, { limitMs = 5_000 } = {}) {
  const { key, certificate } = await createLeaf({ authority: await createAuthority(), validMs: 60_000 });
  const server = createServer({ key, cert: certificate }, handler);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const cluster = openCluster(
    {
      server: new URL(`https://127.0.0.1:${port}`),
      namespace: "team",
      credentials: async () => ({ rejectUnauthorized: false, headers: { authorization: "Bearer x" } }),
    },
    { limitMs },
  );
  onTestFinished(() => {
    cluster.close();
    server.closeAllConnections();
    server.close();
  });
  return { cluster, server };
}
const answer = (response: ServerResponse, status: number, body: unknown) => response.writeHead(status).end(JSON.stringify(body));
const unreachable = expect.objectContaining({ code: "API_SERVER_UNREACHABLE" });

test("a server that accepts and says nothing costs no more than the limit", async () => {
  const { cluster } = await serve(() => undefined, { limitMs: 300 });
  const before = performance.now();
  await expect(cluster.get(pods, "a")).rejects.toThrow(unreachable);
  expect(performance.now() - before).toBeLessThan(2_000);
});

test("a call that is given up rejects with the reason", async () => {
  const { cluster } = await serve(() => undefined);
  const reason = new Error("shutting down");
  const stop = new AbortController();
  const call = cluster.get(pods, "a", { signal: stop.signal });
  setTimeout(() => stop.abort(reason), 100);
  await expect(call).rejects.toBe(reason);
  await expect(cluster.get(pods, "a", { signal: stop.signal })).rejects.toBe(reason);
});

test.each([
  [503, "<html>starting</html>", "API_SERVER_UNREACHABLE"],
  [429, { message: "slow down" }, "API_SERVER_UNREACHABLE"],
  [401, { message: "Unauthorized" }, "CLUSTER_FORBIDS"],
  [403, { message: 'pods is forbidden: User "x" cannot list resource "pods"' }, "CLUSTER_FORBIDS"],
  [403, { message: 'pods "a" is forbidden: exceeded quota: q' }, "CLUSTER_REFUSED"],
  [400, { message: 'admission webhook "w" denied the request' }, "CLUSTER_REFUSED"],
  [409, { reason: "AlreadyExists" }, "OBJECT_EXISTS"],
  [409, { reason: "Conflict" }, "OBJECT_CHANGED"],
] as const)("%d %j is %s", async (status, body, code) => {
  const { cluster } = await serve((_request, response) => void answer(response, status, body));
  await expect(cluster.create(pods, { metadata: { name: "a" } })).rejects.toThrow(expect.objectContaining({ code, status }));
});

test("fields that no type here knows pass through", async () => {
  const received: string[] = [];
  const { cluster } = await serve((request, response) => {
    request.on("data", (chunk: Buffer) => received.push(chunk.toString()));
    request.on("end", () => answer(response, 201, JSON.parse(received.join(""))));
  });
  const pod = { metadata: { name: "a" }, spec: { containers: [], fromTheFuture: { x: [1] } } };
  expect(await cluster.create(pods, pod)).toEqual({ apiVersion: "v1", kind: "Pod", ...pod });
});

test("a kept connection that the server has closed is replaced without anybody noticing", async () => {
  let calls = 0;
  const { cluster, server } = await serve((_request, response) => void answer(response, 200, { metadata: { name: `call-${++calls}` } }));
  await cluster.get(pods, "a");
  server.on("request", () => undefined);
  server.prependOnceListener("request", (request: IncomingMessage) => request.socket.destroy());
  expect((await cluster.get(pods, "a"))?.metadata?.name).toMatch(/^call-/);
});

test("a long list comes in pages, and is begun anew where its snapshot has gone", async () => {
  const asked: (string | null)[] = [];
  let expired = false;
  const { cluster } = await serve((request, response) => {
    const from = new URL(request.url ?? "", "https://x").searchParams.get("continue");
    asked.push(from);
    if (from === null)
      answer(response, 200, { metadata: { resourceVersion: "5", continue: "next" }, items: [{ metadata: { name: "a" } }] });
    else if (!expired) {
      expired = true;
      answer(response, 410, { reason: "Expired" });
    } else answer(response, 200, { metadata: { resourceVersion: "6" }, items: [{ metadata: { name: "b" } }] });
  });
  const { items, resourceVersion } = await cluster.list(pods, { namespace: "team" });
  expect(items.map(({ kind, metadata }) => `${kind} ${metadata?.name}`)).toEqual(["Pod a", "Pod b"]);
  expect([asked, resourceVersion]).toEqual([[null, "next", null, "next"], "6"]);
});

test("a watch whose place in history is gone says what happened meanwhile", async () => {
  const named = (name: string, version: string): KubernetesObject => ({ metadata: { name, uid: name, resourceVersion: version } });
  const lists = [
    { metadata: { resourceVersion: "5" }, items: [named("a", "1"), named("b", "2")] },
    { metadata: { resourceVersion: "9" }, items: [named("b", "2"), named("c", "8")] },
  ];
  const since: (string | null)[] = [];
  const { cluster } = await serve((request, response) => {
    const { searchParams } = new URL(request.url ?? "", "https://x");
    if (!searchParams.has("watch")) return void answer(response, 200, lists.shift());
    since.push(searchParams.get("resourceVersion"));
    const event =
      since.length === 1
        ? { type: "ERROR", object: { code: 410, reason: "Expired", message: "too old" } }
        : { type: "MODIFIED", object: named("c", "10") };
    response.writeHead(200).write(`${JSON.stringify(event)}\n`);
  });
  const stop = new AbortController();
  const seen: string[] = [];
  for await (const { type, object } of cluster.watch(configMaps, { namespace: "team", signal: stop.signal })) {
    seen.push(`${type} ${object.metadata?.name} ${object.metadata?.resourceVersion}`);
    if (seen.length === 5) stop.abort();
  }
  expect(seen).toEqual(["present a 1", "present b 2", "gone a 1", "present c 8", "present c 10"]);
  expect(since).toEqual(["5", "9"]);
});
