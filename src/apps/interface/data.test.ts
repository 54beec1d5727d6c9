import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import { openDataConnection } from "../../approaches/data-connection.ts";
import type { Arriving } from "../../approaches/orchestrator-level/node/arriving.ts";
import { dataTarget } from "../../protocol/conversation.ts";
import { createPeerServer, listenForPeers } from "../../server/peer-server.ts";
import { cluster, pair } from "../../trust/cluster-for-tests.ts";
import type { Trust } from "../../trust/trust.ts";
import { takeData } from "./data.ts";

const id = "0123456789ab";
const one = "127.0.0.2";
const other = "127.0.0.3";

/**
 * What the nodes of two paired sites have of these; the second has two nodes, whose pods answer with their node, the sender
 * and the secret that they were told.
 */
async function twoSites(): Promise<{ alpha: Trust; beta: Trust; port: number }> {
  const sites = [await cluster("alpha"), await cluster("beta")] as const;
  await pair(...sites);
  const [alpha, beta] = sites.map(({ node }) => node) as [Trust, Trust];
  let port = 0;
  for (const address of [one, other]) {
    const arriving: Pick<Arriving, "data"> = {
      async data(_id, { peer, secret }, socket, head) {
        const chunk = head.length > 0 ? head : ((await once(socket, "data")) as Buffer[])[0];
        socket.end(`${address} has ${String(chunk)} of ${peer} by ${secret}`);
      },
    };
    const server = createPeerServer({
      trust: beta,
      log: pino({ level: "silent" }),
      registerPeerRoutes: () => undefined,
      onData: (socket, head, connection) => {
        takeData({ socket, head, connection }, { trust: beta, arriving: arriving as Arriving, address, port }).catch(() =>
          socket.destroy(),
        );
      },
    });
    await listenForPeers(server, { host: address, port });
    ({ port } = server.server.address() as AddressInfo);
    onTestFinished(() => server.close());
  }
  return { alpha, beta, port };
}

async function send(trust: Trust, target: Parameters<typeof openDataConnection>[1]): Promise<string> {
  const socket = await openDataConnection(trust, target, { migrationId: id, signal: AbortSignal.timeout(5_000) });
  socket.on("error", () => undefined);
  socket.write("memory");
  let answer = "";
  for await (const chunk of socket) answer += String(chunk);
  return answer;
}

test("data goes straight to the node of its pod", async () => {
  const { alpha, port } = await twoSites();
  const target = dataTarget({ data: { token: `${other}/s3cret`, port } }, { site: "beta", host: one });
  expect(target.node?.addresses).toEqual([`${other}:${port}`, `${one}:${port}`]);
  expect(await send(alpha, target)).toBe(`${other} has memory of alpha by s3cret`);
});

test("where that node can't be reached, another one passes the data on, and says whose it is", async () => {
  const { alpha, port } = await twoSites();
  const node = { addresses: [`127.0.0.9:${port}`, `${one}:${port}`], token: `${other}/s3cret` };
  expect(await send(alpha, { site: "beta", node })).toBe(`${other} has memory of alpha by s3cret`);
});

test("within one site the node is called by a part of it", async () => {
  const { beta, port } = await twoSites();
  const target = dataTarget({ data: { token: `${other}/s3cret`, port: 1 } }, { site: "beta", host: one, ownPort: port });
  expect(await send(beta, target)).toBe(`${other} has memory of beta by s3cret`);
});

test("data for a node that is not there ends, and goes round no further", async () => {
  const { alpha, port } = await twoSites();
  const node = { addresses: [`${one}:${port}`], token: "127.0.0.9/s3cret" };
  expect(await send(alpha, { site: "beta", node }).catch(() => "")).toBe("");
});
