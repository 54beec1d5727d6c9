/** What a kubelet asks whether this process is well: a port of its own, so that nobody who reaches the peers' port can answer for it. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { UmsError } from "../errors.ts";

/** More than kubelets and people ask at once. */
const connectionsAtOnce = 32;
const answeredWithinMs = 2_000;

/**
 * Answers `GET /healthcheck` by plain HTTP, and nothing else. Who comes gets in: where there is no room, the oldest has to go.
 * @param options.host absent: every address
 * @throws UmsError SERVE_RUNNING where the port is taken
 */
export async function listenForHealth({
  host,
  port,
}: {
  host?: string;
  port: number;
}): Promise<AsyncDisposable & Readonly<{ port: number }>> {
  const open = new Set<Socket>();
  const limits = { headersTimeout: answeredWithinMs, requestTimeout: answeredWithinMs, connectionsCheckingInterval: 500 };
  const server = createServer({ ...limits, maxHeaderSize: 4096 }, ({ method, url }, response) => {
    const isKnown = method === "GET" && url === "/healthcheck";
    response.writeHead(isKnown ? 200 : 404, { "content-type": "text/plain", connection: "close" }).end(isKnown ? "OK" : "");
  });
  server.on("connection", (socket) => {
    const [oldest] = open;
    if (open.size >= connectionsAtOnce) oldest?.destroy();
    open.add(socket);
    socket.on("close", () => open.delete(socket));
    // Whoever doesn't read its answer, or goes on sending.
    socket.setTimeout(answeredWithinMs, () => socket.destroy());
  });
  server.listen({ port, ...(host === undefined ? {} : { host }) });
  try {
    await once(server, "listening");
  } catch (cause) {
    throw new UmsError("SERVE_RUNNING", `The port for health checks, ${port}, can't be opened.`, { cause });
  }
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.close();
      open.forEach((socket) => socket.destroy());
    },
  };
}
