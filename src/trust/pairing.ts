/**
 * How two sites come to trust each other. A person carries a code from one to the other; each side then
 * proves to the other that it knows the code, over a transcript which holds both authorities, names,
 * addresses and nonces, the server's certificate and keying material of this one TLS connection. Whoever
 * stands in the middle has two connections with different keying material, so neither proof fits.
 */
import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual, X509Certificate } from "node:crypto";
import { request as httpsRequest } from "node:https";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type TLSSocket } from "node:tls";
import { type Static, Type } from "typebox";
import type { Accept } from "../accept-form.ts";
import { UmsError } from "../errors.ts";
import { formatAddress, parseAddress } from "../protocol/address.ts";
import { closed } from "../protocol/forms.ts";
import { addressPattern, siteNamePattern } from "../protocol/names.ts";
import { sharedLook } from "../shared-look.ts";
import { claimsToBeSite, isLeafOf, readAuthority } from "./identity.ts";
import { problemFrom, readJson } from "./peer-client.ts";
import type { Peer, Trust } from "./trust.ts";

const Text = (pattern: string) => Type.String({ pattern, maxLength: 300 });
const hex32 = "^[0-9a-f]{64}$";
const Half = {
  name: Text(siteNamePattern),
  certificate: Type.String({ maxLength: 8192 }),
  addresses: Type.Array(Text(addressPattern), { maxItems: 16 }),
  nonce: Text(hex32),
  proof: Text(hex32),
};

/** Body of `POST /pair`, which the site sends that was given the code. */
export const PairRequest = Type.Object(
  {
    ...Half,
    step: Type.Union([Type.Literal("introduce"), Type.Literal("pair")], {
      description: "introduce: who answers? Nothing is stored, and the code stays good",
    }),
    port: Type.Integer({ minimum: 1, maximum: 65_535, description: "Where the caller listens, for want of an address" }),
  },
  closed,
);
export type PairRequest = Static<typeof PairRequest>;

/** What the site answers that made the code. */
export const PairAnswer = Type.Object(Half, closed);
export type PairAnswer = Static<typeof PairAnswer>;

/** Both ends of the pairing at one site. */
export type Pairing = Readonly<{
  /** Makes the one code that is good from now on. @param accept what the site that uses it may send here */
  issueCode(accept?: Accept): Promise<{ code: string; expiresAt: string }>;
  /**
   * Answers a site that calls with the code.
   * @throws UmsError PAIRING_REFUSED and what {@link Trust.addPeer} throws
   */
  answer(request: PairRequest, socket: TLSSocket): Promise<PairAnswer>;
  /**
   * Calls the site that made the code.
   * @throws UmsError SITE_UNREACHABLE, PAIRING_REFUSED and what {@link Trust.addPeer} throws
   */
  pairWith(options: { address: string; code: string; accept?: Accept; signal: AbortSignal }): Promise<Peer>;
}>;

/** A code that has been issued, as it is kept until it is used. */
type Offer = { key: string; expires: number; accept?: Accept };

const codeLifeMs = 10 * 60_000;
const callLimitMs = 15_000;
/** A code has 120 bits, so wrong tries need not be counted: each costs its connection, and its caller this time. */
const wrongTryMs = 1_000;

/**
 * @param options.addresses under which this site is told to its peers; where it is empty, they take the one they see, with `port`
 * @param options.offerCheckMs how often, at most, wrong tries have the offer looked up anew, which another part of the site may have made
 */
export function createPairing({
  trust,
  addresses,
  port,
  now = Date.now,
  offerCheckMs = 200,
}: {
  trust: Trust;
  addresses: readonly string[];
  port: number;
  now?: () => number;
  offerCheckMs?: number;
}): Pairing {
  const openOffer = (text: string | undefined) => {
    const offer = text === undefined ? undefined : (JSON.parse(text) as Offer);
    return offer && now() < offer.expires ? { key: Buffer.from(offer.key, "hex"), accept: offer.accept } : undefined;
  };
  const lookUp = sharedLook(
    async () => {
      let found: Buffer | undefined;
      await trust.pairingOffer((current) => {
        found = openOffer(current)?.key;
        return current;
      });
      return found;
    },
    { everyMs: offerCheckMs },
  );

  return {
    async issueCode(accept) {
      const code = newCode();
      const expires = now() + codeLifeMs;
      await trust.pairingOffer(() =>
        JSON.stringify({ key: keyOf(code).toString("hex"), expires, ...(accept && { accept }) } satisfies Offer),
      );
      return { code, expiresAt: new Date(expires).toISOString() };
    },

    async answer(request, socket) {
      const { proof, ...hello } = request;
      const own = socket.getX509Certificate();
      if (!own) throw new Error("The connection has no certificate of this site.");
      const shown = socket.getPeerX509Certificate();
      const seen = formatAddress({ host: socket.remoteAddress ?? "", port: request.port });
      const transcript = [binding(socket, new X509Certificate(own.raw)), hello];

      const isGood = (offered: Buffer | undefined) => offered !== undefined && sameProof(proof, prove(offered, "caller", transcript));
      const offered = await lookUp();
      let key = isGood(offered) ? offered : undefined;
      let accept: Accept | undefined;
      if (key && request.step === "pair")
        // Used up in one stroke, as the other replica may be asked at the same moment.
        await trust.pairingOffer((current) => {
          const newest = openOffer(current);
          key = isGood(newest?.key) ? newest?.key : undefined;
          accept = newest?.accept;
          return key ? undefined : current;
        });
      if (!key) {
        await sleep(wrongTryMs, undefined, { ref: false });
        throw new UmsError("PAIRING_REFUSED", "The pairing code is not accepted.");
      }

      const { name, certificate } = request;
      trust.checkPeer({ name, certificate });
      if (!shown || !isLeafOf(shown, { authority: readAuthority(certificate) }, now())) {
        throw new UmsError("BAD_REQUEST", "The calling site's certificate is not of its own authority.");
      }
      if (request.step === "pair")
        await trust.addPeer({ name, certificate, addresses: request.addresses.length > 0 ? request.addresses : [seen], accept });
      const reply = { name: trust.siteName, certificate: trust.certificate, addresses: [...addresses], nonce: newNonce() };
      return { ...reply, proof: prove(key, "answerer", [...transcript, proof, reply]) };
    },

    async pairWith({ address, code, accept, signal }) {
      const key = keyOf(code);
      const limit = AbortSignal.any([signal, AbortSignal.timeout(callLimitMs)]);
      const socket = await dial(trust, address, limit);
      try {
        const leaf = socket.getPeerX509Certificate();
        if (!leaf || !claimsToBeSite(leaf)) throw new UmsError("SITE_UNREACHABLE", `What answers at ${address} is not a UMS site.`);
        const take = async (step: PairRequest["step"]) => {
          const own = { name: trust.siteName, certificate: trust.certificate, addresses: [...addresses] };
          const hello = { ...own, step, port, nonce: newNonce() };
          const transcript = [binding(socket, leaf), hello];
          const proof = prove(key, "caller", transcript);
          const { proof: answered, ...reply } = await call(socket, address, { ...hello, proof }, limit);
          const isProven = sameProof(answered, prove(key, "answerer", [...transcript, proof, reply]));
          if (!isProven || !isLeafOf(leaf, { authority: readAuthority(reply.certificate) }, now()))
            throw new UmsError("PAIRING_REFUSED", `The site at ${address} did not prove that it made the code.`);
          return reply;
        };
        // Before the other site stores anything, this one must have been able to.
        trust.checkPeer(await take("introduce"));
        const { name, certificate, addresses: told } = await take("pair");
        return await trust.addPeer({ name, certificate, addresses: [address, ...told], accept });
      } finally {
        socket.destroy();
      }
    },
  };
}

async function dial(trust: Trust, address: string, signal: AbortSignal): Promise<TLSSocket> {
  const { host, port } = parseAddress(address);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect({ ...trust.pairingOptions(), host, port }, resolve);
  const stop = () => socket.destroy(new Error("The time is up."));
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  socket.on("error", reject);
  try {
    await promise;
    return socket;
  } catch (cause) {
    socket.destroy();
    throw new UmsError("SITE_UNREACHABLE", `Nothing that speaks TLS 1.3 answers at ${address}.`, { cause });
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

async function call(socket: TLSSocket, address: string, body: PairRequest, signal: AbortSignal): Promise<PairAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; body: unknown }>();
  const request = httpsRequest({
    method: "POST",
    path: "/pair",
    createConnection: () => socket,
    headers: { host: "ums", "content-type": "application/json", connection: body.step === "pair" ? "close" : "keep-alive" },
    signal,
  });
  request.on("error", reject);
  request.on("response", (response) => void readJson(response).then(resolve, reject));
  request.end(JSON.stringify(body));
  const answer = await promise.catch((cause: unknown) => {
    throw new UmsError("SITE_UNREACHABLE", `The site at ${address} did not answer the pairing.`, { cause });
  });
  if (answer.status !== 200) throw problemFrom(answer, `The site at ${address}`);
  const { Value } = await import("typebox/value");
  if (!Value.Check(PairAnswer, answer.body))
    throw new UmsError("PEER_FAILED", `The site at ${address} answered something else than a pairing.`);
  return answer.body;
}

/** 120 bits, in the alphabet of Crockford's base 32, which has no letters that people confuse. */
const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

function newCode(): string {
  const symbols = [...randomBytes(24)].map((byte) => alphabet[byte & 31]);
  return symbols.join("").replace(/.{4}(?=.)/g, "$&-");
}

/**
 * The key that a code stands for; small letters, blanks and the usual slips are forgiven.
 * @throws UmsError BAD_REQUEST
 */
function keyOf(code: string): Buffer {
  const plain = code.toUpperCase().replace(/[\s-]/g, "").replace(/O/g, "0").replace(/[IL]/g, "1");
  if (plain.length !== 24 || [...plain].some((symbol) => !alphabet.includes(symbol))) {
    throw new UmsError("BAD_REQUEST", "A pairing code has six groups of four letters and digits.");
  }
  return Buffer.from(hkdfSync("sha256", plain, "", "ums pairing 1", 32));
}

/** What ties a proof to this one TLS connection and to the server's certificate. */
function binding(socket: TLSSocket, serverLeaf: X509Certificate): string[] {
  const exported = socket.exportKeyingMaterial(32, "EXPORTER-ums-pairing", Buffer.alloc(0));
  return [exported.toString("hex"), createHash("sha256").update(serverLeaf.raw).digest("hex")];
}

function prove(key: Buffer, role: "caller" | "answerer", transcript: readonly unknown[]): string {
  return createHmac("sha256", key)
    .update(JSON.stringify(["ums-pairing-1", role, ...transcript.map(sorted)]))
    .digest("hex");
}

/** A parser may hand over an object's keys in another order than they were sent in. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  return Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
}

function sameProof(given: string, right: string): boolean {
  return timingSafeEqual(createHash("sha256").update(given).digest(), createHash("sha256").update(right).digest());
}

function newNonce(): string {
  return randomBytes(32).toString("hex");
}
