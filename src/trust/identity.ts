import { createHash, X509Certificate } from "node:crypto";

/**
 * What the holder of a certificate is to others. `site`: it speaks for its site. `node`: it carries data to and from its
 * own node, and may ask for nothing.
 */
export type Role = "site" | "node";

/** How a certificate names its site, and its holder's part in it. */
export function siteUrn(siteName: string, role: Role = "site"): string {
  return `urn:ums:${role}:${siteName}`;
}

/** The site's name that the certificate of a whole site claims. Worth nothing until {@link isLeafOf} has held for that site's authority. */
export function claimedSite(certificate: X509Certificate): string | undefined {
  return certificate.subjectAltName?.match(/^URI:urn:ums:site:([a-z0-9-]{1,63})$/)?.[1];
}

/**
 * Whether the certificate is of this very site, and of this role in it: its authority signed it, and it names that and
 * nothing else. An authority vouches for its own site only, so no peer can pass for another.
 */
export function isLeafOf(
  certificate: X509Certificate,
  { name, authority, role = "site" }: { name: string; authority: X509Certificate; role?: Role },
  now = Date.now(),
): boolean {
  return (
    !certificate.ca &&
    certificate.subjectAltName === `URI:${siteUrn(name, role)}` &&
    certificate.validFromDate.getTime() <= now &&
    now <= certificate.validToDate.getTime() &&
    certificate.checkIssued(authority) &&
    certificate.verify(authority.publicKey)
  );
}

/**
 * The subject of the authority that has this public key: of its own for each, and without the site's name, as a TLS server
 * tells strangers the subjects of all the authorities that it trusts.
 */
export const authoritySubject = (spki: Buffer) => `CN=UMS ${createHash("sha256").update(spki).digest("hex").slice(0, 16)}`;

/**
 * A site's authority from its PEM. With a subject other than its key's it could pass for another one where TLS looks for who
 * has signed a certificate, and keep that site out.
 * @throws where the text is not one self-signed authority
 */
export function readAuthority(pem: string): X509Certificate {
  const certificate = new X509Certificate(pem);
  const isOwnSubject = certificate.subject === authoritySubject(certificate.publicKey.export({ type: "spki", format: "der" }));
  if (pem.split("-----BEGIN ").length !== 2 || !certificate.ca || !certificate.verify(certificate.publicKey) || !isOwnSubject) {
    throw new Error("The text is not one self-signed authority.");
  }
  return certificate;
}

/** SHA-256 of a certificate as people compare it: hex, in pairs, with colons. */
export function fingerprintOf(certificate: X509Certificate): string {
  return certificate.fingerprint256;
}
