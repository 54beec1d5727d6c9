/**
 * Where a site keeps its keys and peers: a handful of named texts. The names are `authority.pem`, `site.pem`,
 * `peer-<name>.json` and `pairing-offer`; in what its nodes may read `authority.crt`, `node.pem` and `peer-<name>.json`.
 */
export type TrustStore = Readonly<{
  /** All that is there. */
  read(): Promise<ReadonlyMap<string, string>>;
  /**
   * Changes one entry: `change` is given what is there, and answers what shall be, or undefined for nothing. It is
   * called again where somebody else was quicker, so it must do no more than answer. Resolves to what is there then,
   * durably.
   */
  update(name: string, change: (current: string | undefined) => string | undefined): Promise<string | undefined>;
  /** Calls with all that is there after a change that somebody else made. Without it nobody else makes any. */
  watch?(listener: (entries: ReadonlyMap<string, string>) => void): () => void;
  /** How people find an entry. */
  placeOf(name: string): string;
}>;

export const authorityEntry = "authority.pem";
export const leafEntry = "site.pem";
/** The authority without its key. */
export const authorityCertificateEntry = "authority.crt";
export const nodeLeafEntry = "node.pem";
export const offerEntry = "pairing-offer";
export const peerEntry = (siteName: string) => `peer-${siteName}.json`;
export const peerEntryPattern = /^peer-(.*)\.json$/;
