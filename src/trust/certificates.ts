/**
 * Makes certificates. Loaded only when there is one to make: the X.509 library costs memory that a
 * running site does not need, and Node's own X509Certificate reads and checks them.
 */
import "reflect-metadata";
import { KeyObject, randomBytes, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import { authoritySubject, type Role, siteHost, siteUrn } from "./identity.ts";

/** A private key and its certificate, both PEM. */
export type Credential = Readonly<{ key: string; certificate: string }>;

const dayMs = 86_400_000;
/** Clocks of two sites may differ by this much without a fresh certificate being "not yet valid". */
const backdateMs = dayMs;
const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

/** A new certificate authority of one site. */
export async function createAuthority(now = Date.now()): Promise<Credential> {
  const keys = await newKeys();
  const spki = Buffer.from(await webcrypto.subtle.exportKey("spki", keys.publicKey));
  const name = authoritySubject(spki);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name,
    notBefore: new Date(now - backdateMs),
    notAfter: new Date(now + 20 * 365 * dayMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: privatePem(keys), certificate: certificate.toString("pem") + "\n" };
}

/**
 * The certificate by which a site, or one of its nodes, serves and calls, signed by the site's authority.
 * @param options.names the subject of the authority of whose site it says to be: of another one only in tests
 */
export async function createLeaf({
  authority,
  names = new x509.X509Certificate(authority.certificate).subject,
  role = "site",
  validMs,
  now = Date.now(),
}: {
  authority: Credential;
  names?: string;
  role?: Role;
  validMs: number;
  now?: number;
}): Promise<Credential> {
  const keys = await newKeys();
  const issuer = new x509.X509Certificate(authority.certificate);
  const der = x509.PemConverter.decodeFirst(authority.key);
  const signingKey = await webcrypto.subtle.importKey("pkcs8", der, algorithm, false, ["sign"]);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: "CN=UMS site",
    issuer: issuer.subject,
    notBefore: new Date(now - backdateMs),
    notAfter: new Date(now + validMs),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([
        ...(role === "site" ? [{ type: "dns", value: siteHost } as const] : []),
        { type: "url", value: siteUrn(names, role) },
      ]),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: privatePem(keys), certificate: certificate.toString("pem") + "\n" };
}

type KeyPair = Awaited<ReturnType<typeof newKeys>>;
async function newKeys() {
  return await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
}

function privatePem(keys: KeyPair): string {
  return KeyObject.from(keys.privateKey).export({ type: "pkcs8", format: "pem" }).toString();
}

/** A positive integer of 15 bytes, as RFC 5280 wants. */
function serialNumber(): string {
  return `01${randomBytes(15).toString("hex")}`;
}
