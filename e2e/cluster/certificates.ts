/** The certificates and kubeconfigs of one test cluster, as kubeadm would lay them out. */
import "reflect-metadata";
import { generateKeyPairSync, KeyObject, randomBytes, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";

/** A private key and its certificate, both PEM. */
export type Credential = Readonly<{ key: string; certificate: string }>;

/** Signs the certificates of one cluster. */
export type Authority = Readonly<{
  certificate: string;
  key: string;
  issue(subject: Subject): Promise<Credential>;
}>;

type Subject = Readonly<{
  name: string;
  /** Kubernetes' groups. */
  groups?: readonly string[];
  dnsNames?: readonly string[];
  addresses?: readonly string[];
}>;

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const dayMs = 86_400_000;

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

export async function createAuthority(name: string): Promise<Authority> {
  const keys = await newKeys();
  const validity = () => ({ notBefore: new Date(Date.now() - dayMs), notAfter: new Date(Date.now() + 3650 * dayMs) });
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `CN=${name}`,
    ...validity(),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.digitalSignature, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const issue = async ({ name, groups = [], dnsNames = [], addresses = [] }: Subject): Promise<Credential> => {
    const own = await newKeys();
    const alternatives = [
      ...dnsNames.map((value) => ({ type: "dns" as const, value })),
      ...addresses.map((value) => ({ type: "ip" as const, value })),
    ];
    const issued = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      subject: [...groups.map((group) => ({ O: [group] })), { CN: [name] }],
      issuer: certificate.subject,
      ...validity(),
      signingAlgorithm: algorithm,
      publicKey: own.publicKey,
      signingKey: keys.privateKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
        ...(alternatives.length > 0 ? [new x509.SubjectAlternativeNameExtension(alternatives)] : []),
        await x509.AuthorityKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return { key: privatePem(own), certificate: `${issued.toString("pem")}\n` };
  };
  return { certificate: `${certificate.toString("pem")}\n`, key: privatePem(keys), issue };
}

/** The pair by which service account tokens are signed and checked. */
export function createTokenKeys(): Readonly<{ privateKey: string; publicKey: string }> {
  // OpenID's verifiers know RS256 best.
  return generateKeyPairSync("rsa", {
    modulusLength: 2048,
    publicKeyEncoding: { type: "spki", format: "pem" },
    privateKeyEncoding: { type: "pkcs8", format: "pem" },
  });
}

type KubeconfigParts = Readonly<{ cluster: string; server: string; authority: string; user: string; credential: Credential }>;

/** JSON, which is YAML as well. */
export function kubeconfig({ cluster, server, authority, user, credential }: KubeconfigParts): string {
  const base64 = (text: string) => Buffer.from(text).toString("base64");
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: cluster, cluster: { server, "certificate-authority-data": base64(authority) } }],
    users: [
      {
        name: user,
        user: { "client-certificate-data": base64(credential.certificate), "client-key-data": base64(credential.key) },
      },
    ],
    contexts: [{ name: cluster, context: { cluster, user } }],
    "current-context": cluster,
  });
}

async function newKeys() {
  return await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
}

function privatePem(keys: Awaited<ReturnType<typeof newKeys>>): string {
  return KeyObject.from(keys.privateKey).export({ type: "pkcs8", format: "pem" }).toString();
}

/** A positive integer of 15 bytes, as RFC 5280 wants. */
function serialNumber(): string {
  return `01${randomBytes(14).toString("hex")}`;
}
