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
import fc from "fast-check";
import { errorTable } from "../src/errors.ts";
import { receive } from "../src/transfer/channel.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { openTrust } from "../src/trust/trust.ts";
import { drawn, garbled, mutated } from "./mutations.ts";
import type { RunningProcess } from "./place.ts";
import { sitePort, type TestSite } from "./sites.ts";

/** One answer: JSON of `body`, or `text` as it is. */
export type Answer = Readonly<{ status?: number; body?: unknown; text?: string }>;
export type Route = "check" | "reserve" | "create" | "arm" | "restore" | "commit" | "release" | "acknowledge";
/**
 * Several answers are given one after the other, the last one from then on. `data`: bytes that are said on the data connection at
 * once. `fuzz`: the seed of answers and replies of any kind, in place of every few that are right; it never owns a service.
 */
export type Script = Readonly<Partial<Record<Route, Answer | readonly Answer[]>> & { data?: string; fuzz?: number }>;

/** Takes the place of `ums serve`, which has to be stopped before. */
export async function playHostile({ host, name }: TestSite, peer: TestSite, script: Script): Promise<RunningProcess> {
  const program = import.meta.filename;
  const running = await host.spawn([process.execPath, program, name, peer.name, host.address, String(sitePort), JSON.stringify(script)]);
  await running.waitForLine(/^listening/, 30_000);
  return running;
}

const honest: Readonly<Partial<Record<Route, Answer>>> = { check: { body: { checks: [{ name: "room", ok: true }], imageBytes: 0 } } };
const refusal: Answer = { status: 502, body: { code: "RESTORE_FAILED", message: "It could not be restored." } };
const gone: Answer = { status: 409, body: { code: "COPY_IS_GONE", message: "There is no copy." } };

/** Answers and replies of any kind. */
function createOddities(seed: number) {
  let inputs = 0;
  const endless = { seed, count: Number.MAX_SAFE_INTEGER };
  const oneIn = (many: number) => Math.random() * many < 1;
  const status = fc.constantFrom(200, 200, 200, 200, 201, 204, 302, 400, 404, 409, 500, 502);
  const problem = fc.record({
    code: fc.constantFrom(...Object.keys(errorTable).filter((code) => code !== "INTERNAL")),
    message: fc.string({ unit: "binary" }),
  });
  const like = (real: unknown) => {
    const body = fc.oneof(
      { weight: 4, arbitrary: mutated(real).map((value) => JSON.stringify(value)) },
      { weight: 1, arbitrary: garbled(Buffer.from(JSON.stringify(real))).map((bytes) => bytes.toString("latin1")) },
      { weight: 2, arbitrary: mutated({ code: "NO_ROOM", message: "no" }).map((value) => JSON.stringify(value)) },
      { weight: 1, arbitrary: problem.map((value) => JSON.stringify(value)) },
    );
    return drawn(fc.record({ status, text: body }), endless);
  };
  const samples: Readonly<Record<string, unknown>> = {
    check: { checks: [{ name: "room", ok: false, code: "NO_ROOM", detail: "none" }], imageBytes: 1 },
    reserve: { layers: [`sha256:${"0".repeat(64)}`] },
    create: { data: { token: `127.0.0.1/${"0".repeat(32)}`, port: 7_443 } },
    arm: { ports: { "6379/tcp": 6_379 }, podAddress: "127.0.0.1" },
  };
  const answers = new Map<string, Generator<Answer>>();
  const replies = drawn(
    fc.oneof(
      mutated({ ok: true, code: "NO_ROOM", message: "no" }).map((value) => `${JSON.stringify(value)}\n`),
      garbled(Buffer.from('{"ok":true}\n{"ok":false,"code":"NO_ROOM"}\n')).map((bytes) => bytes.toString("latin1")),
    ),
    endless,
  );
  const told = <Value>(value: Value): Value => {
    inputs++;
    if (inputs % 10 === 0) console.log(`inputs ${inputs}`);
    return value;
  };
  return {
    answer(route: Route, usual: Answer): Answer {
      if (route === "commit") return oneIn(2) ? told({ text: "committed!" }) : gone;
      if (!oneIn(route === "check" ? 2 : 6)) return route === "restore" ? refusal : usual;
      const of = answers.get(route) ?? like(samples[route] ?? {});
      answers.set(route, of);
      return told(of.next().value as Answer);
    },
    reply: () => (oneIn(3) ? told(replies.next().value as string) : undefined),
  };
}

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
  const oddities = script.fuzz === undefined ? undefined : createOddities(script.fuzz);
  const answer = (request: IncomingMessage, response: ServerResponse) => {
    const route = routeOf(request);
    const time = route === undefined ? 0 : (asked.get(route) ?? 0);
    if (route !== undefined) asked.set(route, time + 1);
    const answers = [(route && (script[route] ?? honest[route])) ?? { body: {} }].flat();
    const usual = answers[Math.min(time, answers.length - 1)] ?? {};
    const { status = 200, body, text: plain } = (route && oddities?.answer(route, usual)) ?? usual;
    if (!oddities)
      console.log(
        `${request.method} ${request.url} ${trust.identify(request.socket as TLSSocket)?.site === peer ? "by the peer" : "by a stranger"}`,
      );
    request.resume().on("end", () => response.writeHead(status).end(plain ?? JSON.stringify(body)));
  };
  const server = createServer(trust.serverOptions(), answer);
  server.on("upgrade", (_request, socket, head) => {
    socket.on("error", () => undefined);
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ums-data\r\n\r\n");
    const data = script.data ?? oddities?.reply();
    if (data !== undefined) socket.write(data);
    receive(socket, head, {
      memory: () => undefined,
      open: () => ({ write: () => undefined, end: async () => undefined }),
      flushed: async () => undefined,
    }).catch(() => socket.destroy());
  });
  server.listen(Number(port), address, () => console.log("listening"));
}

if (import.meta.main) await main();
