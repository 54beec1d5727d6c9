/** From where paired sites call: their connections look like strangers' until the handshake, and have room of their own. */
import { lookup } from "node:dns/promises";
import { isIP, isIPv6, SocketAddress } from "node:net";
import { parseAddress } from "../protocol/address.ts";
import type { Trust } from "../trust/trust.ts";

const lookUpMs = 60_000;
const rememberedMs = 86_400_000;
const mostRemembered = 1_024;

/** Addresses that peers have, and from which they have called. */
export type PeerAddresses = Readonly<{
  /** @param address as {@link plainAddress} writes it */
  has(address: string): boolean;
  /** The site has called from there: its nodes, or what stands before them, need not be at an address that it told. */
  remember(address: string, site: string): void;
  peersChanged(): void;
  close(): void;
}>;

/** Follows where peers are; their names are looked up each minute, and keep what they were where that fails. */
export function followPeerAddresses(
  trust: Pick<Trust, "peers" | "peer" | "siteName">,
  find: (name: string) => Promise<readonly { address: string }[]> = (name) => lookup(name, { all: true }),
): PeerAddresses {
  const told = new Set<string>();
  const ofName = new Map<string, string[]>();
  const called = new Map<string, { site: string; until: number }>();
  const hosts = () => new Set(trust.peers().flatMap(({ addresses }) => addresses.map((each) => parseAddress(each).host)));
  const lookUp = async (name: string) => {
    const found = await find(name).catch(() => undefined);
    if (found)
      ofName.set(
        name,
        found.map(({ address }) => plainAddress(address)),
      );
  };
  const peersChanged = () => {
    told.clear();
    const all = hosts();
    for (const name of ofName.keys()) if (!all.has(name)) ofName.delete(name);
    for (const host of all)
      if (isIP(host)) told.add(plainAddress(host));
      else void lookUp(host);
  };
  peersChanged();
  const timer = setInterval(peersChanged, lookUpMs).unref();
  return {
    has(address) {
      if (told.has(address) || [...ofName.values()].some((all) => all.includes(address))) return true;
      const last = called.get(address);
      if (!last) return false;
      const isStill = Date.now() < last.until && (last.site === trust.siteName || trust.peer(last.site) !== undefined);
      if (!isStill) called.delete(address);
      return isStill;
    },
    remember(address, site) {
      called.delete(address);
      called.set(address, { site, until: Date.now() + rememberedMs });
      const [oldest] = called.keys();
      if (called.size > mostRemembered && oldest !== undefined) called.delete(oldest);
    },
    peersChanged,
    close: () => clearInterval(timer),
  };
}

/** One spelling of an address: IPv4 as such, also where the server listens for IPv6. */
export function plainAddress(address = ""): string {
  const [bare = ""] = address.split("%");
  const one = isIPv6(bare) ? new SocketAddress({ address: bare, family: "ipv6" }).address : bare;
  return one.replace(/^::ffff:(?=\d+\.)/, "");
}
