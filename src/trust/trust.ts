import { X509Certificate } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { checkServerIdentity, ConnectionOptions, SecureContextOptions, TLSSocket } from "node:tls";
import { UmsError } from "../errors.ts";
import { siteNamePattern } from "../names.ts";
import { parseAddress } from "./address.ts";
import type { Credential } from "./certificates.ts";
import { removeDurably, writeDurably } from "./durable-file.ts";
import { fingerprintOf, isLeafOf, readAuthority } from "./identity.ts";

/** A site that this one trusts, as it is stored. */
export type Peer = Readonly<{
  name: string;
  /** The certificate of the peer's authority, PEM. */
  certificate: string;
  /** `host:port`, the one that worked at the pairing first. */
  addresses: readonly string[];
  /** ISO 8601 */
  pairedAt: string;
}>;

/** What `tls.createServer` and `server.setSecureContext` take. */
export type ServerOptions = SecureContextOptions & Readonly<{ requestCert: true; rejectUnauthorized: false }>;

/** Who this site is, and whom it trusts. */
export type Trust = Readonly<{
  siteName: string;
  /** This site's authority, PEM. */
  certificate: string;
  /** SHA-256 of this site's authority. */
  fingerprint: string;
  /** Changes when a peer comes or goes and when the leaf is renewed: see {@link Trust.onChange}. */
  serverOptions(): ServerOptions;
  /** The paired site at the other end of a connection which this site's server accepted, judged by the peers of this moment. */
  identify(socket: TLSSocket): string | undefined;
  /**
   * For a connection to a peer: only that peer's own certificate is accepted.
   * @throws UmsError SITE_NOT_FOUND
   */
  connectOptions(peerName: string): ConnectionOptions & Readonly<{ checkServerIdentity: typeof checkServerIdentity }>;
  /** For a connection to a site that is not trusted yet; whoever uses it proves the server otherwise. */
  pairingOptions(): ConnectionOptions;
  peers(): Peer[];
  peer(name: string): Peer | undefined;
  /**
   * Stores a peer; one that is there already, with the same authority, gets the new addresses.
   * @throws UmsError SITE_NAME_TAKEN, PAIRED_WITH_ITSELF, BAD_REQUEST
   */
  addPeer(peer: Omit<Peer, "pairedAt">): Peer;
  /** Rejects what {@link Trust.addPeer} would reject, and stores nothing. */
  checkPeer(peer: Pick<Peer, "name" | "certificate">): void;
  /** @throws UmsError SITE_NOT_FOUND */
  removePeer(name: string): void;
  /** Called after each change of what a server or connection must be given; answers how to stop that. */
  onChange(listener: () => void): () => void;
  close(): void;
}>;

const dayMs = 86_400_000;
const leafValidMs = 90 * dayMs;
const renewBeforeMs = 30 * dayMs;
/** AES-128 first: in the lab 6 % quicker than AES-256 through Node, and no weaker in practice. */
const tlsOptions = {
  minVersion: "TLSv1.3",
  maxVersion: "TLSv1.3",
  ciphers: "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256",
} as const;

/** Opens the keys and the peers of a site; makes the keys where there are none. */
export async function openTrust(
  stateDirectory: string,
  siteName: string,
  { now = Date.now, renewalCheckMs = 6 * 3_600_000 }: { now?: () => number; renewalCheckMs?: number } = {},
): Promise<Trust> {
  if (!new RegExp(siteNamePattern).test(siteName)) {
    throw new UmsError("BAD_CONFIGURATION", `“${siteName}” can't be a site's name: small letters, digits and hyphens, at most 63.`);
  }
  const trustDirectory = join(stateDirectory, "trust");
  const peersDirectory = join(stateDirectory, "peers");
  mkdirSync(trustDirectory, { recursive: true, mode: 0o700 });
  mkdirSync(peersDirectory, { recursive: true, mode: 0o700 });

  const authorityFile = join(trustDirectory, "authority.pem");
  const leafFile = join(trustDirectory, "site.pem");
  const authority = readCredential(authorityFile) ?? (await makeAuthority(authorityFile));
  const ownAuthority = readAuthority(authority.certificate);
  let leaf = readCredential(leafFile);
  const known = (peer: Peer) => ({ ...peer, authority: readAuthority(peer.certificate) });
  const peers = new Map(readPeers(peersDirectory).map((peer) => [peer.name, known(peer)]));
  const listeners = new Set<() => void>();
  const changed = () => listeners.forEach((listener) => listener());

  async function renewLeaf(): Promise<void> {
    const current = leaf && new X509Certificate(leaf.certificate);
    const good = current && isLeafOf(current, { name: siteName, authority: ownAuthority }, now());
    if (good && current.validToDate.getTime() - now() > renewBeforeMs) return;
    const { createLeaf } = await import("./certificates.ts");
    leaf = await createLeaf({ authority, siteName, validMs: leafValidMs, now: now() });
    writeDurably(leafFile, leaf.key + leaf.certificate);
    changed();
  }
  await renewLeaf();
  // A failed renewal is tried again for the thirty days that the old leaf is still good.
  const renewal = setInterval(() => void renewLeaf().catch(() => undefined), renewalCheckMs);
  renewal.unref();

  const own = () => {
    if (!leaf) throw new Error("This site's key has not been made yet.");
    return { key: leaf.key, cert: leaf.certificate };
  };

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
      throw new UmsError("SITE_NAME_TAKEN", `A site called “${name}” with other keys is paired already.`);
    }
    for (const other of peers.values()) {
      if (other.name !== name && other.authority.raw.equals(candidate.raw)) {
        throw new UmsError("SITE_NAME_TAKEN", `That site is paired already, as “${other.name}”.`);
      }
    }
  };

  return {
    siteName,
    certificate: authority.certificate,
    fingerprint: fingerprintOf(ownAuthority),
    serverOptions: () => ({
      ...tlsOptions,
      ...own(),
      requestCert: true,
      rejectUnauthorized: false,
      // Its own authority too: without any, Node would trust the public ones. No peer has it, so identify() refuses what it signed.
      ca: [authority.certificate, ...[...peers.values()].map((peer) => peer.certificate)],
    }),
    identify(socket) {
      if (!socket.authorized) return undefined;
      const certificate = socket.getPeerX509Certificate();
      const claimed = certificate && [...peers.values()].find((peer) => isLeafOf(certificate, peer, now()));
      return claimed?.name;
    },
    connectOptions(peerName) {
      const peer = peers.get(peerName);
      if (!peer) throw new UmsError("SITE_NOT_FOUND", `No site called “${peerName}” is paired.`);
      return {
        ...tlsOptions,
        ...own(),
        ca: [peer.certificate],
        rejectUnauthorized: true,
        // Sites are known by their keys, so the name in the handshake would only tell an eavesdropper something.
        servername: "",
        checkServerIdentity: (_host, shown) =>
          isLeafOf(new X509Certificate(shown.raw), peer, now()) ? undefined : new Error(`The certificate is not of site “${peerName}”.`),
      };
    },
    pairingOptions: () => ({ ...tlsOptions, ...own(), rejectUnauthorized: false, servername: "" }),
    peers: () => [...peers.values()].map(({ name, certificate, addresses, pairedAt }) => ({ name, certificate, addresses, pairedAt })),
    peer: (name) => {
      const found = peers.get(name);
      return found && { name: found.name, certificate: found.certificate, addresses: found.addresses, pairedAt: found.pairedAt };
    },
    checkPeer,
    addPeer(added) {
      checkPeer(added);
      added.addresses.forEach(parseAddress);
      const peer: Peer = {
        name: added.name,
        certificate: added.certificate,
        addresses: [...new Set(added.addresses)],
        pairedAt: new Date(now()).toISOString(),
      };
      writeDurably(join(peersDirectory, `${peer.name}.json`), `${JSON.stringify(peer, undefined, 2)}\n`);
      peers.set(peer.name, known(peer));
      changed();
      return peer;
    },
    removePeer(name) {
      if (!peers.has(name)) throw new UmsError("SITE_NOT_FOUND", `No site called “${name}” is paired.`);
      removeDurably(join(peersDirectory, `${name}.json`));
      peers.delete(name);
      changed();
    },
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    close() {
      clearInterval(renewal);
      listeners.clear();
    },
  };
}

async function makeAuthority(file: string): Promise<Credential> {
  const { createAuthority } = await import("./certificates.ts");
  const made = await createAuthority();
  writeDurably(file, made.key + made.certificate);
  return made;
}

/** Key and certificate share a file, so that a crash can't leave one without the other. */
function readCredential(file: string): Credential | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UmsError("BAD_STATE", `${file} can't be read.`, { cause });
  }
  const [, key, certificate] =
    /^(-----BEGIN PRIVATE KEY-----[^]*?-----END PRIVATE KEY-----\n)(-----BEGIN CERTIFICATE-----[^]*)$/.exec(text) ?? [];
  if (!key || !certificate) throw new UmsError("BAD_STATE", `${file} has not one key and one certificate.`);
  return { key, certificate };
}

function readPeers(directory: string): Peer[] {
  return readdirSync(directory)
    .filter((file) => file.endsWith(".json"))
    .map((file) => {
      const path = join(directory, file);
      try {
        const peer = JSON.parse(readFileSync(path, "utf8")) as Peer;
        readAuthority(peer.certificate);
        peer.addresses.forEach(parseAddress);
        if (`${peer.name}.json` !== file || typeof peer.pairedAt !== "string") throw new Error("The name is not the file's.");
        return peer;
      } catch (cause) {
        throw new UmsError("BAD_STATE", `${path} does not describe a site.`, { cause });
      }
    });
}
