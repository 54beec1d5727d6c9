import { X509Certificate } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { checkServerIdentity, ConnectionOptions, SecureContextOptions, TLSSocket } from "node:tls";
import { type Accept, isAccept } from "../accept-form.ts";
import { UmsError } from "../errors.ts";
import { parseAddress } from "../protocol/address.ts";
import { siteNamePattern } from "../protocol/names.ts";
import type { Credential } from "./certificates.ts";
import { fingerprintOf, isLeafOf, readAuthority, type Role } from "./identity.ts";
import {
  authorityCertificateEntry,
  authorityEntry,
  leafEntry,
  nodeLeafEntry,
  offerEntry,
  peerEntry,
  peerEntryPattern,
  type TrustStore,
} from "./store.ts";

/** A site that this one trusts, as it is stored. */
export type Peer = Readonly<{
  name: string;
  /** The certificate of the peer's authority, PEM. */
  certificate: string;
  /** `host:port`, the one that worked at the pairing first. */
  addresses: readonly string[];
  /** ISO 8601 */
  pairedAt: string;
  /** What it may send here, as far as that is not what any site may. */
  accept?: Accept | undefined;
}>;

/** What `tls.createServer` and `server.setSecureContext` take. */
export type ServerOptions = SecureContextOptions & Readonly<{ requestCert: true; rejectUnauthorized: false }>;

/** Who is at the other end of a connection. */
export type Caller = Readonly<{
  /** Its name. */
  site: string;
  role: Role;
  /** Whether it is a part of this very site. */
  isSelf: boolean;
}>;

/** Who this site is, and whom it trusts. */
export type Trust = Readonly<{
  siteName: string;
  /** This site's authority, PEM. */
  certificate: string;
  /** SHA-256 of this site's authority. */
  fingerprint: string;
  /** Changes when the leaf is renewed: see {@link Trust.onChange}. */
  serverOptions(): ServerOptions;
  /** The paired site, or the part of this one, at the other end of a connection which this site's server accepted, judged by the peers of this moment. */
  identify(socket: TLSSocket): Caller | undefined;
  /**
   * For a connection to a peer, or to one of its nodes: only that peer's own certificate for this role is accepted.
   * @throws UmsError SITE_NOT_FOUND
   */
  connectOptions(peerName: string, role?: Role): ConnectionOptions & Readonly<{ checkServerIdentity: typeof checkServerIdentity }>;
  /** For a connection from one part of this site to another. */
  connectToSelfOptions(role: Role): ReturnType<Trust["connectOptions"]>;
  /** For a connection to a site that is not trusted yet; whoever uses it proves the server otherwise. */
  pairingOptions(): ConnectionOptions;
  peers(): Peer[];
  peer(name: string): Peer | undefined;
  /**
   * Stores a peer; one that is there already, with the same authority, gets the new addresses, and keeps its `accept` where none is given.
   * @throws UmsError SITE_NAME_TAKEN, PAIRED_WITH_ITSELF, BAD_REQUEST
   */
  addPeer(peer: Omit<Peer, "pairedAt">): Promise<Peer>;
  /** Says what a peer may send here; undefined: what any site may. @throws UmsError SITE_NOT_FOUND */
  acceptFrom(name: string, accept: Accept | undefined): Promise<Peer>;
  /** Rejects what {@link Trust.addPeer} would reject, and stores nothing. */
  checkPeer(peer: Pick<Peer, "name" | "certificate">): void;
  /** @throws UmsError SITE_NOT_FOUND */
  removePeer(name: string): Promise<void>;
  /** Changes what this site has offered as a pairing code, whichever of its parts did: see {@link TrustStore.update}. */
  pairingOffer: (change: (current: string | undefined) => string | undefined) => Promise<string | undefined>;
  /**
   * Key and certificate by which this site's nodes serve and call: the ones they have, while these are good.
   * @throws Error where this part of the site doesn't make its keys
   */
  nodeLeaf(current: string | undefined): Promise<string>;
  /** Called after each change of what a server or connection must be given; answers how to stop that. */
  onChange(listener: () => void): () => void;
  close(): void;
}>;

const dayMs = 86_400_000;
const leafValidMs = 90 * dayMs;
const renewBeforeMs = 30 * dayMs;
const keysCheckMs = 500;
/** AES-128 first: in the lab 6 % quicker than AES-256 through Node, and no weaker in practice. */
const tlsOptions = {
  minVersion: "TLSv1.3",
  maxVersion: "TLSv1.3",
  ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
} as const;

/** The peer of this name, else all that say that they are called by this address: peers tell their own, and two may tell the same. */
export function peersCalled(peers: readonly Peer[], wanted: string): Peer[] {
  const called = wanted.toLowerCase();
  const named = peers.find(({ name }) => name === called);
  return named ? [named] : peers.filter(({ addresses }) => addresses.some((each) => each.toLowerCase() === called));
}

/** The one peer that is meant. @throws UmsError SITE_NOT_FOUND */
export function peerCalled(peers: readonly Peer[], wanted: string): Peer {
  const [found, ...others] = peersCalled(peers, wanted);
  if (!found) throw new UmsError("SITE_NOT_FOUND", `No paired site is called ${wanted} or has that address.`);
  if (others.length === 0) return found;
  const names = [found, ...others].map(({ name }) => name).join(", ");
  throw new UmsError(
    "SITE_NOT_FOUND",
    `Several paired sites say that they have the address ${wanted}: ${names}. Say which one by its name.`,
  );
}

/**
 * Opens the keys and the peers of a site; makes the keys where there are none.
 * @param options.makesKeys false for a part of a site that leaves that to another one: it waits for the keys
 * @param options.role node: the store is one that `shareWithNodes` fills, and whoever reads it waits for that
 */
export async function openTrust(
  store: TrustStore,
  siteName: string,
  {
    now = Date.now,
    renewalCheckMs = 6 * 3_600_000,
    role = "site",
    makesKeys = role === "site",
    signal = new AbortController().signal,
  }: { now?: () => number; renewalCheckMs?: number; role?: Role; makesKeys?: boolean; signal?: AbortSignal } = {},
): Promise<Trust> {
  if (!new RegExp(siteNamePattern).test(siteName)) {
    throw new UmsError("BAD_CONFIGURATION", `“${siteName}” can't be a site's name: small letters, digits and hyphens, at most 63.`);
  }
  const [ownAuthorityEntry, ownLeafEntry] = role === "site" ? [authorityEntry, leafEntry] : [authorityCertificateEntry, nodeLeafEntry];
  let entries = await store.read();
  while (!makesKeys && !(entries.has(ownAuthorityEntry) && entries.has(ownLeafEntry))) {
    await sleep(keysCheckMs, undefined, { signal });
    entries = await store.read();
  }

  const signer =
    role === "site" ? (readCredential(store, authorityEntry, entries.get(authorityEntry)) ?? (await makeAuthority(store))) : undefined;
  const ownCertificate = signer?.certificate ?? entries.get(authorityCertificateEntry) ?? "";
  const ownAuthority = readAuthority(ownCertificate);
  let leaf = readCredential(store, ownLeafEntry, entries.get(ownLeafEntry));
  const known = (peer: Peer) => ({ ...peer, authority: readAuthority(peer.certificate) });
  const peers = new Map(readPeers(store, entries).map((peer) => [peer.name, known(peer)]));
  const listeners = new Set<() => void>();
  const changed = () => listeners.forEach((listener) => listener());

  const isGood = (credential: Credential | undefined, of: Role = "site") => {
    const certificate = credential && readCertificate(credential);
    return (
      certificate !== undefined &&
      isLeafOf(certificate, { authority: ownAuthority, role: of }, now()) &&
      certificate.validToDate.getTime() - now() > renewBeforeMs
    );
  };

  async function makeLeaf(of: Role): Promise<string> {
    if (!makesKeys || !signer) throw new Error("This part of the site makes no keys.");
    const { createLeaf } = await import("./certificates.ts");
    const { key, certificate } = await createLeaf({ authority: signer, role: of, validMs: leafValidMs, now: now() });
    return key + certificate;
  }

  async function renewLeaf(): Promise<void> {
    if (isGood(leaf)) return;
    const made = await makeLeaf("site");
    const text = await store.update(leafEntry, (current) => (isGood(readCredential(store, leafEntry, current)) ? current : made));
    leaf = readCredential(store, leafEntry, text);
    changed();
  }
  if (makesKeys) await renewLeaf();
  // A failed renewal is tried again for the thirty days that the old leaf is still good.
  const renewal = makesKeys ? setInterval(() => void renewLeaf().catch(() => undefined), renewalCheckMs).unref() : undefined;

  const stopWatching = store.watch?.((newest) => {
    const before = JSON.stringify([leaf, [...peers.values()].map(plain)]);
    try {
      const others = readPeers(store, newest).map((peer) => [peer.name, known(peer)] as const);
      leaf = readCredential(store, ownLeafEntry, newest.get(ownLeafEntry)) ?? leaf;
      peers.clear();
      for (const [name, peer] of others) peers.set(name, peer);
    } catch {
      // What can't be read is left for the next change, or for a restart to complain about.
      return;
    }
    if (JSON.stringify([leaf, [...peers.values()].map(plain)]) !== before) changed();
  });

  const own = () => {
    if (!leaf) throw new Error("This site's key has not been made yet.");
    return { key: leaf.key, cert: leaf.certificate };
  };

  const self = { name: siteName, certificate: ownCertificate, authority: ownAuthority };
  const optionsFor = (site: typeof self & { role: Role }) => ({
    ...tlsOptions,
    ...own(),
    ca: [site.certificate],
    rejectUnauthorized: true,
    // Sites are known by their keys, so the name in the handshake would only tell an eavesdropper something.
    servername: "",
    checkServerIdentity: ((_host, shown) =>
      isLeafOf(new X509Certificate(shown.raw), site, now())
        ? undefined
        : new Error(`The certificate is not of site “${site.name}”.`)) satisfies typeof checkServerIdentity,
  });

  const checkPeer: Trust["checkPeer"] = ({ name, certificate }) => {
    let candidate: X509Certificate;
    try {
      candidate = readAuthority(certificate);
    } catch (cause) {
      throw new UmsError("BAD_REQUEST", "The other site's certificate can't be read.", { cause });
    }
    if (!new RegExp(siteNamePattern).test(name)) throw new UmsError("BAD_REQUEST", "The other site's name is not one.");
    if (candidate.raw.equals(ownAuthority.raw)) throw new UmsError("PAIRED_WITH_ITSELF", "That is this site itself.");
    if (name === siteName) throw new UmsError("SITE_NAME_TAKEN", `Both sites are called “${name}”.`);
    const known = peers.get(name);
    if (known && !known.authority.raw.equals(candidate.raw)) {
      throw nameTaken(name);
    }
    for (const other of peers.values()) {
      if (other.name !== name && other.authority.raw.equals(candidate.raw)) {
        throw new UmsError("SITE_NAME_TAKEN", `That site is paired already, as “${other.name}”.`);
      }
    }
  };

  async function changePeer(name: string, change: (before: Peer | undefined) => Peer): Promise<Peer> {
    const text = await store.update(peerEntry(name), (current) =>
      textOf(change(current === undefined ? undefined : readPeer(store, name, current))),
    );
    const peer = readPeer(store, name, text ?? "");
    peers.set(name, known(peer));
    changed();
    return peer;
  }

  return {
    siteName,
    certificate: ownCertificate,
    fingerprint: fingerprintOf(ownAuthority),
    serverOptions: () => ({
      ...tlsOptions,
      ...own(),
      requestCert: true,
      rejectUnauthorized: false,
      // A server tells strangers whom it trusts, so it trusts nobody, and `identify` judges. Without a list, Node would take its own.
      ca: [],
    }),
    identify(socket) {
      const certificate = socket.getPeerX509Certificate();
      if (!certificate) return undefined;
      for (const site of [self, ...peers.values()])
        for (const role of ["site", "node"] as const)
          if (isLeafOf(certificate, { ...site, role }, now())) return { site: site.name, role, isSelf: site === self };
      return undefined;
    },
    connectOptions(peerName, role = "site") {
      const peer = peers.get(peerName);
      if (!peer) throw new UmsError("SITE_NOT_FOUND", `No site called “${peerName}” is paired.`);
      return optionsFor({ ...peer, role });
    },
    connectToSelfOptions: (role) => optionsFor({ ...self, role }),
    pairingOptions: () => ({ ...tlsOptions, ...own(), rejectUnauthorized: false, servername: "" }),
    peers: () => [...peers.values()].map(plain),
    peer: (name) => {
      const found = peers.get(name);
      return found && plain(found);
    },
    checkPeer,
    async addPeer(added) {
      checkPeer(added);
      added.addresses.forEach(parseAddress);
      const addresses = [...new Set(added.addresses)];
      const made = { name: added.name, certificate: added.certificate, addresses, pairedAt: new Date(now()).toISOString() };
      return await changePeer(added.name, (before) => {
        // Another part of this site may have paired meanwhile.
        if (before && before.certificate !== made.certificate) throw nameTaken(made.name);
        return plain({ ...made, accept: added.accept ?? before?.accept });
      });
    },
    acceptFrom: (name, accept) =>
      changePeer(name, (before) => {
        if (!before) throw new UmsError("SITE_NOT_FOUND", `No site called “${name}” is paired.`);
        return plain({ ...before, accept });
      }),
    async removePeer(name) {
      if (!peers.has(name)) throw new UmsError("SITE_NOT_FOUND", `No site called “${name}” is paired.`);
      await store.update(peerEntry(name), () => undefined);
      peers.delete(name);
      changed();
    },
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    pairingOffer: (change) => store.update(offerEntry, change),
    async nodeLeaf(current) {
      const isKept = current !== undefined && isGood(parseCredential(current), "node");
      return isKept ? current : await makeLeaf("node");
    },
    close() {
      clearInterval(renewal);
      stopWatching?.();
      listeners.clear();
    },
  };
}

/** A peer, as a store has it. */
export const textOf = (peer: Peer) => `${JSON.stringify(peer, undefined, 2)}\n`;

const plain = ({ name, certificate, addresses, pairedAt, accept }: Peer): Peer => ({
  ...{ name, certificate, addresses, pairedAt },
  ...(accept === undefined ? {} : { accept }),
});

function nameTaken(name: string): UmsError {
  return new UmsError("SITE_NAME_TAKEN", `A site called “${name}” with other keys is paired already.`);
}

/** Makes the authority, unless another part of the site was quicker. */
async function makeAuthority(store: TrustStore): Promise<Credential> {
  const { createAuthority } = await import("./certificates.ts");
  const made = await createAuthority();
  const text = await store.update(authorityEntry, (current) => current ?? made.key + made.certificate);
  return readCredential(store, authorityEntry, text) ?? made;
}

function readCredential(store: TrustStore, name: string, text: string | undefined): Credential | undefined {
  if (text === undefined) return undefined;
  const credential = parseCredential(text);
  if (!credential) throw new UmsError("BAD_STATE", `${store.placeOf(name)} has not one key and one certificate.`);
  return credential;
}

function readCertificate({ certificate }: Credential): X509Certificate | undefined {
  try {
    return new X509Certificate(certificate);
  } catch {
    return undefined; // damaged: none is made of it, and another takes its place
  }
}

/** Key and certificate are one entry, so that a crash can't leave one without the other. */
function parseCredential(text: string): Credential | undefined {
  const [, key, certificate] =
    /^(-----BEGIN PRIVATE KEY-----[^]*?-----END PRIVATE KEY-----\n)(-----BEGIN CERTIFICATE-----[^]*)$/.exec(text) ?? [];
  return key && certificate ? { key, certificate } : undefined;
}

function readPeers(store: TrustStore, entries: ReadonlyMap<string, string>): Peer[] {
  return [...entries].flatMap(([entry, text]) => {
    const name = peerEntryPattern.exec(entry)?.[1];
    return name === undefined ? [] : [readPeer(store, name, text)];
  });
}

function readPeer(store: TrustStore, name: string, text: string): Peer {
  try {
    const peer = JSON.parse(text) as Peer;
    readAuthority(peer.certificate);
    peer.addresses.forEach(parseAddress);
    if (peer.name !== name || typeof peer.pairedAt !== "string") throw new Error("The name is not the entry's.");
    // What can't be read must not count as nothing said: that would be what any site may.
    if (peer.accept !== undefined && !isAccept(peer.accept)) throw new Error("What it may send is not of the documented form.");
    return peer;
  } catch (cause) {
    throw new UmsError("BAD_STATE", `${store.placeOf(peerEntry(name))} does not describe a site.`, { cause });
  }
}
