/**
 * A paired site that keeps to no rules, played with that site's own keys. Run on its host:
 *
 *     node e2e/hostile-peer.ts SITE PEER DIRECTORY     reads a list of requests from standard input, prints the list of answers
 *
 * Each request goes to the peer as it is: {method, path, body}; with `together`, a list of such at once; with `data`, those bytes
 * (base64) over the data connection of the migration `id`, `times` so many connections at once: how many of them stay is the answer.
 * With `pair`, the site whose keys are in DIRECTORY becomes a peer.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { text } from "node:stream/consumers";
import { createPeerClient } from "../src/trust/peer-client.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { createPairing } from "../src/trust/pairing.ts";
import { openTrust } from "../src/trust/trust.ts";
import { codeOf } from "../src/errors.ts";
import type { TestSite } from "./sites.ts";

type Plain = Readonly<{ method: string; path: string; body?: unknown }>;
type Pair = Readonly<{ address: string; code: string }>;
export type Request =
  Plain | Readonly<{ together: readonly Plain[] }> | Readonly<{ id: string; data: string; times?: number }> | Readonly<{ pair: Pair }>;
/** What the peer answered, or the code with which it refused. */
export type HostileAnswer = Readonly<{ body?: unknown; code?: string; message?: string }>;

const program = import.meta.filename;

/** Sends requests from one site's host to another, one after the other. @param directory of the site's keys, where it isn't that host's own */
export async function askAs(
  { host, name }: Pick<TestSite, "host" | "name">,
  peer: Readonly<{ name: string }>,
  requests: readonly Request[],
  directory = "/var/lib/ums",
): Promise<HostileAnswer[]> {
  const { stdout } = await host.exec([process.execPath, program, name, peer.name, directory], {
    input: JSON.stringify(requests),
    timeoutMs: 120_000,
  });
  return JSON.parse(stdout) as HostileAnswer[];
}

async function main(): Promise<void> {
  const [site = "", peer = "", directory = ""] = process.argv.slice(2);
  const trust = await openTrust(openTrustFiles(directory), site);
  const client = createPeerClient(trust, peer);
  const send = ({ method, path, body }: Plain): Promise<HostileAnswer> =>
    client.request({ method, path, body, timeoutMs: 60_000 }).then(
      (answer) => ({ body: answer }),
      (cause: unknown) => ({ code: codeOf(cause as Error), message: String(cause) }),
    );
  const answers: unknown[] = [];
  for (const request of JSON.parse(await text(process.stdin)) as Request[]) {
    if ("together" in request) answers.push({ body: await Promise.all(request.together.map(send)) });
    else if ("pair" in request) {
      await createPairing({ trust, addresses: [], port: 1 }).pairWith({ ...request.pair, signal: AbortSignal.timeout(10_000) });
      answers.push({});
    } else if ("data" in request) {
      const open = () => client.openData({ migrationId: request.id, signal: AbortSignal.timeout(10_000) });
      const sockets = await Promise.all(Array.from({ length: request.times ?? 1 }, open));
      for (const socket of sockets) socket.on("error", () => undefined).resume();
      for (const socket of sockets) socket.write(Buffer.from(request.data, "base64"));
      await sleep(1_000);
      answers.push({ body: sockets.filter(({ readableEnded, destroyed }) => !readableEnded && !destroyed).length });
      for (const socket of sockets) socket.destroy();
    } else answers.push(await send(request));
  }
  process.stdout.write(JSON.stringify(answers));
  process.exit(0);
}

if (import.meta.main) await main();
