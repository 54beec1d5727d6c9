/** Data connections of other sites: taken, or passed on to the node which the token names. */
import type { TLSSocket } from "node:tls";
import { peerHeader, tokenHeader } from "../../approaches/data-connection.ts";
import type { Arriving } from "../../approaches/orchestrator-level/node/arriving.ts";
import { UmsError } from "../../errors.ts";
import type { DataConnection } from "../../server/peer-server.ts";
import { createSelfClient } from "../../trust/peer-client.ts";
import type { Trust } from "../../trust/trust.ts";

/** @param options.address of this node, as tokens name it */
export async function takeData(
  { socket, head, connection }: { socket: TLSSocket; head: Buffer; connection: DataConnection },
  { trust, arriving, address, port }: { trust: Trust; arriving: Arriving; address: string; port: number },
): Promise<void> {
  const { migrationId, headers } = connection;
  const [node = "", secret = ""] = (headers[tokenHeader] ?? "").split("/");
  const peer = connection.self ? (headers[peerHeader] ?? "") : connection.peer;
  if (node === address) return await arriving.data(migrationId, { peer, secret }, socket, head);
  // Passed on once at most: what another node passes on is meant for this one.
  if (connection.self) throw new UmsError("COPY_IS_GONE", `This node is not ${node}.`);
  const client = createSelfClient(trust, { who: `The interface at ${node}`, address: `${node}:${port}`, role: "node" });
  const onward = await client.openData({
    migrationId,
    signal: AbortSignal.timeout(10_000),
    headers: { [tokenHeader]: headers[tokenHeader] ?? "", [peerHeader]: peer },
  });
  if (head.length > 0) onward.write(head);
  socket.pipe(onward).pipe(socket);
  for (const [one, other] of [
    [socket, onward],
    [onward, socket],
  ] as const) {
    one.on("error", () => other.destroy());
    one.on("close", () => other.destroy());
  }
}
