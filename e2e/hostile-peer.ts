/**
 * A paired site that keeps to no rules, played with that site's own keys. Run on its host:
 *
 *     node e2e/hostile-peer.ts SITE PEER     reads a list of requests from standard input, prints the list of answers
 *
 * Each request goes to the peer as it is: {method, path, body}; with `together`, a list of such at once; with `data`, those bytes
 * (base64) over the data connection of the migration `id`.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { text } from "node:stream/consumers";
import { createPeerClient } from "../src/trust/peer-client.ts";
import { openTrustFiles } from "../src/trust/files.ts";
import { openTrust } from "../src/trust/trust.ts";
import { codeOf } from "../src/errors.ts";
import type { TestSite } from "./sites.ts";

type Plain = Readonly<{ method: string; path: string; body?: unknown }>;
export type Request = Plain | Readonly<{ together: readonly Plain[] }> | Readonly<{ id: string; data: string }>;
/** What the peer answered, or the code with which it refused. */
export type HostileAnswer = Readonly<{ body?: unknown; code?: string; message?: string }>;

const program = import.meta.filename;

/** Sends requests from one site's host to another, one after the other. */
export async function askAs(
  { host, name }: TestSite,
  peer: Readonly<{ name: string }>,
  requests: readonly Request[],
): Promise<HostileAnswer[]> {
  const { stdout } = await host.exec([process.execPath, program, name, peer.name], { input: JSON.stringify(requests), timeoutMs: 120_000 });
  return JSON.parse(stdout) as HostileAnswer[];
}

async function main(): Promise<void> {
  const [site = "", peer = ""] = process.argv.slice(2);
  const trust = await openTrust(openTrustFiles("/var/lib/ums"), site);
  const client = createPeerClient(trust, peer);
  const send = ({ method, path, body }: Plain): Promise<HostileAnswer> =>
    client.request({ method, path, body, timeoutMs: 60_000 }).then(
      (answer) => ({ body: answer }),
      (cause: unknown) => ({ code: codeOf(cause as Error), message: String(cause) }),
    );
  const answers: unknown[] = [];
  for (const request of JSON.parse(await text(process.stdin)) as Request[]) {
    if ("together" in request) answers.push({ body: await Promise.all(request.together.map(send)) });
    else if ("data" in request) {
      const socket = await client.openData({ migrationId: request.id, signal: AbortSignal.timeout(10_000) });
      socket.on("error", () => undefined).resume();
      socket.write(Buffer.from(request.data, "base64"));
      await sleep(1_000);
      socket.destroy();
      answers.push({});
    } else answers.push(await send(request));
  }
  process.stdout.write(JSON.stringify(answers));
  process.exit(0);
}

if (import.meta.main) await main();
