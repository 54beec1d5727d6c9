/** The connection over which a service's memory and files go, as the source opens it. */
import type { TLSSocket } from "node:tls";
import { createPeerClient, createPeerInterfaceClient } from "../trust/peer-client.ts";
import type { Trust } from "../trust/trust.ts";
import type { DataTarget } from "./protocol.ts";

/** Tells an interface which node and pod are meant. */
export const tokenHeader = "ums-token";

export function openDataConnection(
  trust: Trust,
  { site, node }: DataTarget,
  { migrationId, signal }: { migrationId: string; signal: AbortSignal },
): Promise<TLSSocket> {
  if (!node) return createPeerClient(trust, site).openData({ migrationId, signal });
  const client = createPeerInterfaceClient(trust, site, node.address);
  return client.openData({ migrationId, signal, headers: { [tokenHeader]: node.token } });
}
