import "reflect-metadata";
import { spawn } from "node:child_process";
import { webcrypto, X509Certificate } from "node:crypto";
import { openSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { Duplex } from "node:stream";
import { createServer, connect, type TLSSocket } from "node:tls";
import { BasicConstraintsExtension, X509CertificateGenerator } from "@peculiar/x509";
import { expect, onTestFinished, test } from "vitest";
import { createLeaf } from "./certificates.ts";
import { openTrustFiles } from "./files.ts";
import { siteUrn } from "./identity.ts";
import { temporaryDirectory } from "./temporary-directory-for-tests.ts";
import { type Caller, openTrust, type Trust, peerCalled } from "./trust.ts";

const dayMs = 86_400_000;

async function open(name: string, directory = temporaryDirectory(), now: () => number = Date.now): Promise<Trust & { directory: string }> {
  const trust = await openTrust(openTrustFiles(directory), name, { now });
  onTestFinished(() => trust.close());
  return { ...trust, directory };
}

async function introduce(a: Trust, b: Trust): Promise<void> {
  await a.addPeer({ name: b.siteName, certificate: b.certificate, addresses: ["127.0.0.1:1"] });
  await b.addPeer({ name: a.siteName, certificate: a.certificate, addresses: ["127.0.0.1:1"] });
}

const nameOf = ({ site, role, isSelf }: Caller) => `${isSelf ? "itself" : site}${role === "node" ? ", a node of it" : ""}`;

/** Who the server takes the caller for, and whether the caller accepts the server. */
async function meet(server: Trust, options: object): Promise<{ caller: string | undefined; refused: string | undefined }> {
  const listener = createServer(server.serverOptions());
  onTestFinished(() => void listener.close());
  const { promise: identified, resolve } = Promise.withResolvers<string | undefined>();
  listener.on("secureConnection", (socket: TLSSocket) => {
    socket.on("error", () => undefined);
    const caller = server.identify(socket);
    resolve(caller && nameOf(caller));
    socket.end();
  });
  listener.on("tlsClientError", () => resolve(undefined));
  await new Promise<void>((done) => listener.listen(0, "127.0.0.1", done));
  const socket = connect({ ...options, host: "127.0.0.1", port: (listener.address() as AddressInfo).port });
  const refused = await new Promise<string | undefined>((done) => {
    socket.on("secureConnect", () => done(undefined));
    socket.on("error", (error) => done(error.message));
  });
  const caller = refused === undefined ? await identified : undefined;
  socket.destroy();
  return { caller, refused };
}

test("a site is meant by its name, or by an address that no other one has, too", () => {
  const peer = (name: string, ...addresses: string[]) => ({ name, addresses, certificate: "", pairedAt: "" });
  const peers = [peer("b", "b.example:7443", "shared:7443"), peer("evil", "shared:7443", "b:7443"), peer("shared")];
  expect(peerCalled(peers, "B.example:7443").name).toBe("b");
  expect(peerCalled(peers, "shared").name).toBe("shared");
  expect(() => peerCalled(peers, "shared:7443")).toThrow(/Several paired sites .*: b, evil\./);
  expect(() => peerCalled(peers, "c:1")).toThrow(expect.objectContaining({ code: "SITE_NOT_FOUND" }));
});

test("keys are made once, readable by nobody else, and found again", async () => {
  const first = await open("alpha");
  const again = await open("alpha", first.directory);
  expect(again.fingerprint).toBe(first.fingerprint);
  expect(first.fingerprint).toMatch(/^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
  for (const file of ["trust/authority.pem", "trust/site.pem"]) expect(statSync(join(first.directory, file)).mode & 0o777).toBe(0o600);
});

const leafOf = (trust: Trust) => new X509Certificate(trust.serverOptions().cert as string);
const subjectOf = (trust: Trust) => new X509Certificate(trust.certificate).subject;
const readPem = (trust: { directory: string }, name: string) => {
  const pem = readFileSync(join(trust.directory, "trust", name), "utf8");
  const at = pem.indexOf("-----BEGIN CERTIFICATE");
  return { key: pem.slice(0, at), certificate: pem.slice(at) };
};

test("the leaf names its site by its authority's key, is good for client and server, and is renewed before it ends", async () => {
  const first = await open("alpha");
  expect(leafOf(first).subjectAltName).toBe(`DNS:ums, URI:${siteUrn(subjectOf(first))}`);
  expect(leafOf(first).subjectAltName).toMatch(/URI:urn:ums:site:[0-9a-f]{16}$/);
  expect(leafOf(first).keyUsage).toEqual(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  const sooner = await open("alpha", first.directory, () => Date.now() + 50 * dayMs);
  expect(leafOf(sooner).serialNumber).toBe(leafOf(first).serialNumber);
  const later = await open("alpha", first.directory, () => Date.now() + 65 * dayMs);
  expect(leafOf(later).serialNumber).not.toBe(leafOf(first).serialNumber);
  expect(later.fingerprint).toBe(first.fingerprint);
});

test("a leaf of earlier versions, with the site's name in it, is replaced at the start, and pairings stand", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  const old = await createLeaf({ authority: readPem(a, "authority.pem"), names: "alpha", validMs: 80 * dayMs });
  writeFileSync(join(a.directory, "trust/site.pem"), old.key + old.certificate);
  const updated = await open("alpha", a.directory);
  expect(leafOf(updated).subjectAltName).toBe(leafOf(a).subjectAltName);
  expect(await meet(b, updated.connectOptions("beta"))).toEqual({ caller: "alpha", refused: undefined });
  expect(await meet(updated, b.connectOptions("alpha"))).toEqual({ caller: "beta", refused: undefined });
  // Its nodes' too.
  const ofNodes = await createLeaf({ authority: readPem(a, "authority.pem"), names: "alpha", role: "node", validMs: 80 * dayMs });
  expect(await updated.nodeLeaf(ofNodes.key + ofNodes.certificate)).not.toContain(ofNodes.certificate);
});

test("a handshake tells a stranger neither names nor with whom a site is paired", async () => {
  const [a, b] = [await open("alpha-of-somebody"), await open("beta-of-somebody")];
  await introduce(a, b);
  const server = createServer(a.serverOptions()).listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  server.on("secureConnection", (socket) => socket.on("error", () => undefined).resume());
  await once(server, "listening");
  const options = { host: "127.0.0.1", port: (server.address() as AddressInfo).port, minVersion: "TLSv1.3", rejectUnauthorized: false };
  const look = `require("node:tls").connect(${JSON.stringify(options)}, function () { this.destroy(); })`;
  // Into a file: into a pipe it writes without waiting, and loses what finds no room.
  const trace = join(a.directory, "trace");
  const child = spawn(process.execPath, ["--trace-tls", "--eval", look], { stdio: ["ignore", "ignore", openSync(trace, "w")] });
  await once(child, "exit");
  const all = readFileSync(trace, "latin1");
  expect(all).toContain("CertificateRequest");
  expect(all).not.toContain("certificate_authorities");
  const shown = [...all.matchAll(/CN ?= ?(UMS [0-9a-f]+)/g)].map(([, name]) => `CN=${name}`);
  expect(new Set(shown)).toEqual(new Set([subjectOf(a)]));
  // In hexadecimal, as the trace has what it can't name.
  const bytes = all.replaceAll(/^\s+[0-9a-f]{4} - | {3}.*$|[\s-]/gm, "");
  for (const { siteName } of [a, b]) {
    expect(all).not.toContain(siteName);
    expect(bytes).not.toContain(Buffer.from(siteName).toString("hex"));
  }
});

test("a site that calls another one tells nobody on the way which one it expects", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  const { promise: hello, resolve } = Promise.withResolvers<Buffer>();
  const wire = new Duplex({ read: () => undefined, write: (chunk: Buffer, _encoding, done) => (resolve(chunk), done()) });
  connect({ ...a.connectOptions("beta"), socket: wire }).on("error", () => undefined);
  const said = (await hello).toString("latin1");
  for (const word of ["alpha", "beta", subjectOf(a).slice(3), subjectOf(b).slice(3)]) expect(said).not.toContain(word);
});

test("paired sites know each other, by TLS 1.3 alone", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  expect(await meet(b, a.connectOptions("beta"))).toEqual({ caller: "alpha", refused: undefined });
  const old = await meet(b, { ...a.connectOptions("beta"), minVersion: "TLSv1.2", maxVersion: "TLSv1.2" });
  expect(old.refused).toBeDefined();
});

test("a site without peers trusts no public authority", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  expect((await meet(b, a.pairingOptions())).caller).toBeUndefined();
  expect(b.serverOptions().ca).toEqual([]);
});

test("a peer whose authority signs another peer's name is not taken for that peer", async () => {
  const [a, b, c] = [await open("alpha"), await open("beta"), await open("gamma")];
  await introduce(a, b);
  await introduce(c, b);
  const authority = readPem(a, "authority.pem");
  const forged = await createLeaf({ authority, names: subjectOf(c), validMs: dayMs });
  expect((await meet(b, { ...a.connectOptions("beta"), key: forged.key, cert: forged.certificate })).caller).toBeUndefined();
  const names = `${subjectOf(a)}, URI:${siteUrn(subjectOf(c))}`;
  const both = await createLeaf({ authority, names, validMs: dayMs });
  expect((await meet(b, { ...a.connectOptions("beta"), key: both.key, cert: both.certificate })).caller).toBeUndefined();
  // The authority's own certificate is no leaf.
  expect((await meet(b, { ...a.connectOptions("beta"), key: authority.key, cert: authority.certificate })).caller).toBeUndefined();
});

test("a certificate that says to be of an authority which has not signed it is nobody's", async () => {
  const [a, b, eve] = [await open("alpha"), await open("beta"), await open("eve")];
  await introduce(a, b);
  const authority = { key: readPem(eve, "authority.pem").key, certificate: a.certificate };
  const { key, certificate } = await createLeaf({ authority, validMs: dayMs });
  expect(new X509Certificate(certificate).issuer).toBe(subjectOf(a));
  expect((await meet(b, { ...eve.pairingOptions(), key, cert: certificate })).caller).toBeUndefined();
  // Nor is it by sending the authority's own with it.
  expect((await meet(b, { ...eve.pairingOptions(), key, cert: certificate + a.certificate })).caller).toBeUndefined();
});

test("another peer's server is not accepted for the one that was called", async () => {
  const [a, b, c] = [await open("alpha"), await open("beta"), await open("gamma")];
  await introduce(a, b);
  await introduce(a, c);
  expect((await meet(c, a.connectOptions("beta"))).refused).toBeDefined();
});

test("an expired leaf is refused", async () => {
  const a = await open("alpha", temporaryDirectory(), () => Date.now() - 200 * dayMs);
  const b = await open("beta");
  await introduce(a, b);
  expect((await meet(b, { ...a.pairingOptions() })).caller).toBeUndefined();
});

test("peers survive a restart; a removed one is gone, also from the disk", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  expect((await open("alpha", a.directory)).peers()).toEqual(a.peers());
  expect(statSync(join(a.directory, "peers/beta.json")).mode & 0o777).toBe(0o600);
  await a.removePeer("beta");
  expect((await open("alpha", a.directory)).peers()).toEqual([]);
  expect(() => a.connectOptions("beta")).toThrow(expect.objectContaining({ code: "SITE_NOT_FOUND" }));
  await expect(a.removePeer("beta")).rejects.toThrow(expect.objectContaining({ code: "SITE_NOT_FOUND" }));
});

test("a name belongs to one authority, an authority to one name, and neither to this site", async () => {
  const [a, b, c] = [await open("alpha"), await open("beta"), await open("gamma")];
  await introduce(a, b);
  const add = (name: string, certificate: string) => a.addPeer({ name, certificate, addresses: [] });
  await expect(add("beta", c.certificate)).rejects.toThrow(expect.objectContaining({ code: "SITE_NAME_TAKEN" }));
  await expect(add("delta", b.certificate)).rejects.toThrow(expect.objectContaining({ code: "SITE_NAME_TAKEN" }));
  await expect(add("alpha", c.certificate)).rejects.toThrow(expect.objectContaining({ code: "SITE_NAME_TAKEN" }));
  await expect(add("other", a.certificate)).rejects.toThrow(expect.objectContaining({ code: "PAIRED_WITH_ITSELF" }));
  await expect(add("../x", c.certificate)).rejects.toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
  await expect(add("delta", "-----BEGIN nothing")).rejects.toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
  expect((await a.addPeer({ name: "beta", certificate: b.certificate, addresses: ["10.0.0.1:7443"] })).addresses).toEqual([
    "10.0.0.1:7443",
  ]);
});

test("an authority that bears another one's subject is refused, so that it can't keep that site out", async () => {
  const [a, b, c] = [await open("alpha"), await open("beta"), await open("gamma")];
  await introduce(a, b);
  const keys = await webcrypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
  const namesake = await X509CertificateGenerator.createSelfSigned({
    serialNumber: "01",
    name: new X509Certificate(b.certificate).subject,
    signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
    keys,
    extensions: [new BasicConstraintsExtension(true, 0, true)],
  });
  const add = (certificate: string) => a.addPeer({ name: "evil", certificate, addresses: ["127.0.0.1:1"] });

  await expect(add(namesake.toString("pem"))).rejects.toThrow(expect.objectContaining({ code: "BAD_REQUEST" }));
  await add(c.certificate);
  expect(await meet(b, a.connectOptions("beta"))).toEqual({ caller: "alpha", refused: undefined });
});

test("the parts of one site know each other, and nobody else is taken for one", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  const other = await open("alpha", a.directory);
  expect(await meet(a, other.connectToSelfOptions("site"))).toEqual({ caller: "itself", refused: undefined });
  expect((await meet(a, b.connectOptions("alpha"))).caller).toBe("beta");
  expect((await meet(a, (await open("alpha")).pairingOptions())).caller).toBeUndefined();
  expect((await meet(b, a.connectToSelfOptions("site"))).refused).toBeDefined();
});

test("a part that makes no keys waits until another has made them", async () => {
  const directory = temporaryDirectory();
  const waiting = openTrust(openTrustFiles(directory), "alpha", { makesKeys: false });
  const maker = await open("alpha", directory);
  const found = await waiting;
  onTestFinished(() => found.close());
  expect(found.fingerprint).toBe(maker.fingerprint);
  const signal = AbortSignal.timeout(100);
  await expect(openTrust(openTrustFiles(temporaryDirectory()), "alpha", { makesKeys: false, signal })).rejects.toThrow();
});

test("what a peer may send is kept with it, also when it is paired anew, until something else is said", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  const add = async (more: object = {}) => {
    await a.addPeer({ name: "beta", certificate: b.certificate, addresses: ["127.0.0.1:1"], ...more });
    return (await open("alpha", a.directory)).peer("beta")?.accept;
  };
  expect(await add()).toBeUndefined();
  expect(await add({ accept: { approaches: [] } })).toEqual({ approaches: [] });
  expect(await add()).toEqual({ approaches: [] });
  expect(await add({ accept: { namespaces: ["shop"] } })).toEqual({ namespaces: ["shop"] });
  await a.acceptFrom("beta", undefined);
  expect((await open("alpha", a.directory)).peer("beta")).not.toHaveProperty("accept");
  await expect(a.acceptFrom("gamma", {})).rejects.toThrow(expect.objectContaining({ code: "SITE_NOT_FOUND" }));
});

test("one of which can't be read what it may send is no peer: it would be taken for any", async () => {
  const [a, b] = [await open("alpha"), await open("beta")];
  await introduce(a, b);
  const file = join(a.directory, "peers/beta.json");
  const peer = JSON.parse(readFileSync(file, "utf8")) as object;
  writeFileSync(file, JSON.stringify({ ...peer, accept: { approches: [] } }));
  await expect(openTrust(openTrustFiles(a.directory), "alpha")).rejects.toThrow(/peers\/beta.json does not describe a site/);
});

test("a damaged file is named", async () => {
  const a = await open("alpha");
  writeFileSync(join(a.directory, "peers/beta.json"), "{");
  await expect(openTrust(openTrustFiles(a.directory), "alpha")).rejects.toThrow(/peers\/beta.json does not describe a site/);
  writeFileSync(join(a.directory, "trust/authority.pem"), "");
  await expect(openTrust(openTrustFiles(a.directory), "alpha")).rejects.toThrow(/authority.pem has not one key/);
});
