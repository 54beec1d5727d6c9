import { X509Certificate } from "node:crypto";

/** How a certificate names its site. */
export function siteUrn(siteName: string): string {
  return `urn:ums:site:${siteName}`;
}

/** The site's name that a certificate claims. Worth nothing until {@link isLeafOf} has held for that site's authority. */
export function claimedSite(certificate: X509Certificate): string | undefined {
  return certificate.subjectAltName?.match(/^URI:urn:ums:site:([a-z0-9-]{1,63})$/)?.[1];
}

/**
 * Whether the certificate is of this very site: its authority signed it, and it names the site and nothing else.
 * An authority vouches for its own site only, so no peer can pass for another.
 */
export function isLeafOf(certificate: X509Certificate, site: { name: string; authority: X509Certificate }, now = Date.now()): boolean {
  return (
    !certificate.ca &&
    claimedSite(certificate) === site.name &&
    certificate.validFromDate.getTime() <= now &&
    now <= certificate.validToDate.getTime() &&
    certificate.checkIssued(site.authority) &&
    certificate.verify(site.authority.publicKey)
  );
}

/**
 * A site's authority from its PEM.
 * @throws where the text is not one self-signed authority
 */
export function readAuthority(pem: string): X509Certificate {
  const certificate = new X509Certificate(pem);
  if (pem.split("-----BEGIN ").length !== 2 || !certificate.ca || !certificate.verify(certificate.publicKey)) {
    throw new Error("The text is not one self-signed authority.");
  }
  return certificate;
}

/** SHA-256 of a certificate as people compare it: hex, in pairs, with colons. */
export function fingerprintOf(certificate: X509Certificate): string {
  return certificate.fingerprint256;
}
