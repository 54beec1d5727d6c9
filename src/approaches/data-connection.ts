/** The connection over which a service's memory and files go, as the source opens it. */
import type { TLSSocket } from "node:tls";
import type { DataTarget } from "../protocol/conversation.ts";
import { createPeerClient, createPeerInterfaceClient, createSelfClient } from "../trust/peer-client.ts";
import type { Trust } from "../trust/trust.ts";

/** Tells an interface which node and pod are meant. */
export const tokenHeader = "ums-token";

/** Who opened it, where a part of this very site passes it on, or opens it. Believed from such a part alone. */
export const peerHeader = "ums-peer";

export function openDataConnection(
  trust: Trust,
  { site, node }: DataTarget,
  { migrationId, signal }: { migrationId: string; signal: AbortSignal },
): Promise<TLSSocket> {
  if (!node) return createPeerClient(trust, site).openData({ migrationId, signal });
  const headers = { [tokenHeader]: node.token };
  if (site !== trust.siteName) return createPeerInterfaceClient(trust, site, node.addresses).openData({ migrationId, signal, headers });
  const [address = ""] = node.addresses;
  const client = createSelfClient(trust, { who: `The interface at ${address}`, address, role: "node" });
  return client.openData({ migrationId, signal, headers: { ...headers, [peerHeader]: site } });
}
