/** The sites that migrations go to, this one among them, and how their coordinators are called. */
import { createPeerClient, createSelfClient, type PeerClient } from "../../trust/peer-client.ts";
import { type Peer, peerCalled, peersCalled, type Trust } from "../../trust/trust.ts";

export type Sites = Readonly<{
  ownName: string;
  /**
   * The site that an object's `destination` means: its name, an address given at the pairing, or this one.
   * @param begun with which the migration has begun, where several have that address
   * @throws UmsError SITE_NOT_FOUND
   */
  find(destination: string, begun?: string): Pick<Peer, "name" | "addresses">;
  /** @param name as {@link Sites.find} tells it */
  client(name: string): PeerClient;
  close(): void;
}>;

/** @param options.coordinatorAddress where this site's own coordinator answers */
export function createSites(trust: Trust, { coordinatorAddress }: { coordinatorAddress: string }): Sites {
  const clients = new Map<string, PeerClient>();
  return {
    ownName: trust.siteName,
    find(destination, begun) {
      const wanted = destination.toLowerCase();
      if (wanted === trust.siteName) return { name: wanted, addresses: [coordinatorAddress] };
      return peersCalled(trust.peers(), wanted).find(({ name }) => name === begun) ?? peerCalled(trust.peers(), wanted);
    },
    client(name) {
      let client = clients.get(name);
      if (!client) {
        client =
          name === trust.siteName
            ? createSelfClient(trust, { who: "This site's coordinator", address: coordinatorAddress, role: "site" })
            : createPeerClient(trust, name);
        clients.set(name, client);
      }
      return client;
    },
    close() {
      for (const client of clients.values()) client.close();
    },
  };
}
