/**
 * A destination that keeps to no rules, with the keys of the site whose host it runs on, in place of `ums serve`:
 *
 *     node e2e/hostile-site.ts SITE PEER ADDRESS PORT SCRIPT
 *
 * SCRIPT says what it answers on which route; on all others it does as a destination should, up to storing nothing.
 */
import { createServer } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { TLSSocket } from "node:tls";
import { receive } from "../src/transfer/channel.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { openTrust } from "../src/trust/trust.ts";
import type { RunningProcess } from "./place.ts";
import { sitePort, type TestSite } from "./sites.ts";

/** One answer: JSON of `body`, or `text` as it is. */
export type Answer = Readonly<{ status?: number; body?: unknown; text?: string }>;
export type Route = "check" | "reserve" | "create" | "arm" | "restore" | "commit" | "release" | "acknowledge";
/** Several answers are given one after the other, the last one from then on. `data`: bytes that are said on the data connection at once. */
export type Script = Readonly<Partial<Record<Route, Answer | readonly Answer[]>> & { data?: string }>;

/** Takes the place of `ums serve`, which has to be stopped before. */
export async function playHostile({ host, name }: TestSite, peer: TestSite, script: Script): Promise<RunningProcess> {
  const program = import.meta.filename;
  const running = await host.spawn([process.execPath, program, name, peer.name, host.address, String(sitePort), JSON.stringify(script)]);
  await running.waitForLine(/^listening/, 30_000);
  return running;
}

const honest: Readonly<Partial<Record<Route, Answer>>> = { check: { body: { checks: [], imageBytes: 0 } } };

function routeOf({ method, url = "" }: IncomingMessage): Route | undefined {
  if (url === "/peer/check") return "check";
  if (method === "PUT") return "reserve";
  if (method === "DELETE") return "release";
  return /^\/peer\/migrations\/[0-9a-f]+\/([a-z]+)$/.exec(url)?.[1] as Route | undefined;
}

async function main(): Promise<void> {
  const [site = "", peer = "", address = "", port = "", text = "{}"] = process.argv.slice(2);
  const script = JSON.parse(text) as Script;
  const trust = await openTrust(openTrustFiles("/var/lib/ums"), site);
  const asked = new Map<Route, number>();
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const route = routeOf(request);
    const time = route === undefined ? 0 : (asked.get(route) ?? 0);
    if (route !== undefined) asked.set(route, time + 1);
    const answers = [(route && (script[route] ?? honest[route])) ?? { body: {} }].flat();
    const { status = 200, body, text: plain } = answers[Math.min(time, answers.length - 1)] ?? {};
    console.log(
      `${request.method} ${request.url} ${trust.identify(request.socket as TLSSocket)?.site === peer ? "by the peer" : "by a stranger"}`,
    );
    request.resume().on("end", () => response.writeHead(status).end(plain ?? JSON.stringify(body)));
  };
  const server = createServer(trust.serverOptions(), answer);
  server.on("upgrade", (_request, socket, head) => {
    socket.on("error", () => undefined);
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ums-data\r\n\r\n");
    if (script.data !== undefined) socket.write(script.data);
    receive(socket, head, {
      memory: () => undefined,
      open: () => ({ write: () => undefined, end: async () => undefined }),
      flushed: async () => undefined,
    }).catch((cause: unknown) => console.log(`the data connection broke: ${String(cause)}`));
  });
  server.listen(Number(port), address, () => console.log("listening"));
}

if (import.meta.main) await main();
