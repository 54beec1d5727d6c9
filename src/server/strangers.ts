/**
 * Bounds what connections take up on which nobody has said yet who they are, in memory, descriptors and time. Who comes always
 * gets in: where there is no room, the oldest of those has to go of whom there are most from one address. Until its handshake
 * a peer's connection looks like a stranger's, so those from an address of a peer have room and time of their own.
 */
import type { FastifyBaseLogger } from "fastify";
import type { Server } from "node:https";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Trust } from "../trust/trust.ts";
import { costOf, createBar, hasChain } from "./handshake-cost.ts";
import { followPeerAddresses, plainAddress } from "./peer-addresses.ts";
import { boundConnections } from "./peer-connections.ts";

/** What connections that nobody has vouched for may take up; twice over, as peers' addresses have as much again. */
export type ConnectionLimits = Readonly<{
  /** How many have sent nothing yet, and for how long they may. */
  silent: number;
  silentMs: number;
  /** How many wait for their handshake, and for how long. */
  waiting: number;
  waitingMs: number;
  /** How many are in a handshake or in their first request, and for how long. */
  strangers: number;
  strangerMs: number;
  handshakeMs: number;
  /**
   * One costs the one thread, on which migrations run too, about half a millisecond. One with a chain of certificates may cost
   * hundreds: it counts as so many that half of the time is left to others.
   */
  handshakesPerSecond: number;
  /** For how long nobody gets in from where a costly handshake came; 0: callers' addresses are not their own, as behind a NodePort. */
  barredMs: number;
  /** Of one paired site, all its nodes together. */
  ofPeer: number;
}>;

export const defaultLimits: ConnectionLimits = {
  silent: 512,
  silentMs: 3_000,
  waiting: 1024,
  waitingMs: 3_000,
  strangers: 256,
  strangerMs: 10_000,
  handshakeMs: 5_000,
  handshakesPerSecond: 400,
  barredMs: 60_000,
  ofPeer: 256,
};

/** Handshakes that may come at once, in seconds' worth. */
const burstSeconds = 0.1;
/** A TLS record with a handshake begins so (RFC 8446, 5.1); no HTTP does. */
const tlsHandshake = 0x16;

/** Guards a server's connections. */
export type Guard = Readonly<{
  /** The connection is no stranger's any more: it may last. */
  vouchFor(socket: Socket): void;
  /** Whether a site that this one knows is at the other end. */
  isPeers(socket: Socket): boolean;
  /** Ends the connections of sites that are no peers any more. */
  peersChanged(): void;
  /** Ends all, and those that still come. */
  close(): void;
}>;

/** @param parts.takePlain gets the connections that speak no TLS; without it they end */
export function guardConnections({
  server,
  trust,
  limits,
  log,
  takePlain,
}: {
  server: Server;
  trust: Trust;
  limits: ConnectionLimits;
  log: FastifyBaseLogger;
  takePlain?: (socket: Socket) => void;
}): Guard {
  const takeTls = server.listeners("connection");
  server.removeAllListeners("connection");
  const peers = new Set<TLSSocket>();
  /** By the other end's address and port, which a TLS socket has of the one below it. */
  const all = new Map<string, Socket>();

  const parts = { limits, log, takePlain, takeTls: (raw: Socket) => takeTls.forEach((take) => void take.call(server, raw)) };
  const [ofPeers, ofOthers] = [createClass(parts), createClass(parts)];
  const classes = [ofPeers, ofOthers];
  const peersAddresses = followPeerAddresses(trust);
  const barred = createBar(limits.barredMs);
  const isOfPeers = ({ remoteAddress }: Socket) => peersAddresses.has(plainAddress(remoteAddress));
  let closing = false;

  server.on("connection", (raw: Socket) => {
    const end = endOf(raw);
    all.set(end, raw);
    raw.on("close", () => {
      all.delete(end);
      for (const { forget } of classes) forget(raw);
    });
    raw.on("error", () => raw.destroy());
    if (closing) return void raw.destroy();
    const network = networkOf(plainAddress(raw.remoteAddress));
    if (isOfPeers(raw)) return ofPeers.admit(raw, network);
    if (barred.has(network)) return void raw.destroy();
    ofOthers.admit(raw, network);
  });
  const vouchFor = (socket: Socket) => {
    const raw = all.get(endOf(socket));
    if (raw) for (const { forget } of classes) forget(raw);
  };
  /** Its time is taken off the budget of those from where it came; a peer's address is not barred for what another did there. */
  const judgeHandshake = (socket: TLSSocket, isChain?: boolean) => {
    const raw = all.get(endOf(socket));
    if (!raw) return;
    for (const { handshakeEnded } of classes) handshakeEnded(raw);
    const costMs = costOf({ bytes: raw.bytesRead, isChain });
    if (costMs === 0) return;
    socket.destroy();
    if (isOfPeers(raw)) return void ofPeers.charge(costMs);
    const networkOfOne = ({ remoteAddress }: Socket) => networkOf(plainAddress(remoteAddress));
    const network = networkOfOne(raw);
    log.debug({ network, costMs }, "a stranger's handshake had a chain of certificates");
    barred.add(network);
    const isOverdrawn = ofOthers.charge(costMs);
    ofOthers.endHandshakes((other) => isOverdrawn || barred.has(networkOfOne(other)));
  };
  const bound = boundConnections(server, limits.ofPeer);
  server.on("secureConnection", (socket: TLSSocket) => {
    const isChain = hasChain(socket);
    const caller = trust.identify(socket);
    if (!caller) return judgeHandshake(socket, isChain);
    peersAddresses.remember(plainAddress(socket.remoteAddress), caller.site);
    if (!caller.isSelf) bound(caller.site, socket);
    peers.add(socket);
    socket.on("close", () => peers.delete(socket));
    vouchFor(socket);
  });
  server.on("tlsClientError", (error, socket) => {
    log.debug({ err: error, address: socket.remoteAddress }, "a TLS handshake failed");
    judgeHandshake(socket);
    socket.destroy();
  });

  return {
    vouchFor,
    isPeers: (socket) => peers.has(socket as TLSSocket),
    peersChanged() {
      peersAddresses.peersChanged();
      [...peers].filter((socket) => !trust.identify(socket)).forEach((socket) => socket.destroy());
    },
    close() {
      closing = true;
      peersAddresses.close();
      for (const { stop } of classes) stop();
      [...peers, ...all.values()].forEach((socket) => socket.destroy());
    },
  };
}

/** Connections from peers' addresses, or all others: until somebody vouches for them. */
function createClass({
  limits,
  log,
  takePlain,
  takeTls,
}: {
  limits: ConnectionLimits;
  log: FastifyBaseLogger;
  takePlain: ((socket: Socket) => void) | undefined;
  takeTls: (socket: Socket) => void;
}) {
  const silent = createRoom(limits.silent);
  const waiting = createRoom(limits.waiting);
  const strangers = createRoom(limits.strangers);
  const rooms = [silent, waiting, strangers];
  const timers = new Map<Socket, NodeJS.Timeout>();
  const underWay = new Set<Socket>();
  const forget = (raw: Socket) => {
    underWay.delete(raw);
    clearTimeout(timers.get(raw));
    timers.delete(raw);
    for (const room of rooms) room.delete(raw);
  };
  const enter = (room: Room, raw: Socket, { address, timeMs }: { address: string; timeMs: number }) => {
    forget(raw);
    const oldest = room.oldestIfFull();
    if (oldest) {
      log.debug({ address: oldest.remoteAddress }, "a stranger's connection makes room for a newer one");
      forget(oldest);
      oldest.destroy();
    }
    room.add(raw, address);
    const end = setTimeout(() => raw.destroy(), timeMs);
    timers.set(raw, end);
  };
  const pace = createPace(limits.handshakesPerSecond, () => {
    const next = waiting.takeNewest();
    if (!next) return false;
    enter(strangers, next.socket, { address: next.address, timeMs: limits.strangerMs });
    underWay.add(next.socket);
    takeTls(next.socket);
    return true;
  });
  return {
    forget,
    stop: pace.stop,
    handshakeEnded: (raw: Socket) => void underWay.delete(raw),
    charge: (ms: number) => pace.charge(ms),
    /** Ends handshakes before they cost what they may. */
    endHandshakes(isMeant: (raw: Socket) => boolean) {
      [...underWay].filter(isMeant).forEach((raw) => raw.destroy());
    },
    admit(raw: Socket, address: string) {
      enter(silent, raw, { address, timeMs: limits.silentMs });
      raw.once("readable", () => {
        const first = raw.read() as Buffer | null;
        if (first === null) return void raw.destroy(); // it ended
        raw.unshift(first);
        if (first[0] === tlsHandshake) {
          enter(waiting, raw, { address, timeMs: limits.waitingMs });
          pace.next();
        } else if (takePlain) {
          forget(raw);
          takePlain(raw);
        } else raw.destroy();
      });
    },
  };
}

const endOf = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;

type Room = ReturnType<typeof createRoom>;

/** Connections by where they come from, in the order in which they came. */
function createRoom(most: number) {
  const addressOf = new Map<Socket, string>();
  const byAddress = new Map<string, Set<Socket>>();
  const remove = (socket: Socket) => {
    const address = addressOf.get(socket);
    if (address === undefined) return;
    addressOf.delete(socket);
    const others = byAddress.get(address);
    others?.delete(socket);
    if (others?.size === 0) byAddress.delete(address);
  };
  return {
    add(socket: Socket, address: string) {
      addressOf.set(socket, address);
      byAddress.set(address, (byAddress.get(address) ?? new Set()).add(socket));
    },
    delete: remove,
    /** Who has to go for one more. */
    oldestIfFull(): Socket | undefined {
      if (addressOf.size < most) return undefined;
      const crowd = [...byAddress.values()].reduce((one, other) => (other.size > one.size ? other : one));
      return crowd.values().next().value;
    },
    /** The newest, as nobody has given it up yet, of each address in turn. */
    takeNewest(): { socket: Socket; address: string } | undefined {
      for (const [address, sockets] of byAddress) {
        const socket = [...sockets].at(-1);
        if (!socket) continue;
        byAddress.delete(address);
        byAddress.set(address, sockets);
        remove(socket);
        return { socket, address };
      }
      return undefined;
    },
  };
}

/** Calls `take` for those that wait, one between two turns of everything else, and so often at most. */
function createPace(perSecond: number, take: () => boolean) {
  const atOnce = Math.max(1, perSecond * burstSeconds);
  let left = atOnce;
  let countedAt = performance.now();
  let isUnderWay = false;
  let isOver = false;
  const turn = () => {
    const now = performance.now();
    left = Math.min(atOnce, left + ((now - countedAt) * perSecond) / 1000);
    countedAt = now;
    isUnderWay = !isOver && (left < 1 || take());
    if (!isUnderWay) return;
    if (left < 1) return void setTimeout(turn, ((1 - left) * 1000) / perSecond).unref();
    left--;
    setImmediate(turn);
  };
  return {
    next() {
      if (!isUnderWay) turn();
    },
    /** Waits twice as long as that kept the thread. @returns whether that makes more than a second in all */
    charge(ms: number): boolean {
      left -= (2 * ms * perSecond) / 1000;
      return left < -perSecond;
    },
    stop: () => (isOver = true),
  };
}

/** Whom an address stands for: whoever has one of IPv6 has all of its /64. */
export function networkOf(address: string): string {
  if (!address.includes(":")) return address;
  const [head = [], tail = []] = address.split("::").map((part) => part.split(":").filter(Boolean));
  const zeros = Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => "0");
  return [...head, ...zeros, ...tail].slice(0, 4).join(":");
}
