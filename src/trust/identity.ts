import { createHash, X509Certificate } from "node:crypto";

/**
 * What the holder of a certificate is to others. `site`: it speaks for its site. `node`: it carries data to and from its
 * own node, and may ask for nothing.
 */
export type Role = "site" | "node";

/**
 * What a site is called in handshakes, which any stranger can begin: by its authority's key, and so by nothing that says
 * whose it is. @param spki the authority's public key
 */
const idOf = (spki: Buffer) => createHash("sha256").update(spki).digest("hex").slice(0, 16);

/** The subject of the authority that has this public key: of its own for each. */
export const authoritySubject = (spki: Buffer) => `CN=UMS ${idOf(spki)}`;

/** How a certificate names its site, and its holder's part in it. @param authoritySubject of the site's authority */
export function siteUrn(authoritySubject: string, role: Role = "site"): string {
  return `urn:ums:${role}:${authoritySubject.replace(/^CN=UMS /, "")}`;
}

/**
 * What curl asks a whole site's certificate for: the same for all sites, since people believe one site's authority alone, and
 * the name tells nothing to strangers.
 */
export const siteHost = "ums";

/** What the certificate of a site's part is for, as Node tells it. @param authoritySubject of the site's authority */
const subjectNames = (authoritySubject: string, role: Role) =>
  role === "site" ? `DNS:${siteHost}, URI:${siteUrn(authoritySubject, role)}` : `URI:${siteUrn(authoritySubject, role)}`;

/** Whether a certificate claims to be of a whole site. Worth nothing until {@link isLeafOf} has held for that site's authority. */
export function claimsToBeSite(certificate: X509Certificate): boolean {
  return /^DNS:ums, URI:urn:ums:site:[0-9a-f]{16}$/.test(certificate.subjectAltName ?? "");
}

/**
 * Whether the certificate is of this authority's site, and of this role in it: that has signed it, and it names that and
 * nothing else. An authority vouches for its own site only, so no peer can pass for another. Nothing else needs to have been
 * found out about it before: a handshake proves alone that its holder has the key.
 */
export function isLeafOf(
  certificate: X509Certificate,
  { authority, role = "site" }: { authority: X509Certificate; role?: Role },
  now = Date.now(),
): boolean {
  return (
    !certificate.ca &&
    certificate.subjectAltName === subjectNames(authority.subject, role) &&
    certificate.validFromDate.getTime() <= now &&
    now <= certificate.validToDate.getTime() &&
    now <= authority.validToDate.getTime() &&
    certificate.checkIssued(authority) &&
    certificate.verify(authority.publicKey)
  );
}

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
