import { isIPv4, isIPv6 } from "node:net";
import { UmsError } from "../errors.ts";
import { addressPattern } from "./names.ts";

/** Where a site can be called. */
export type Address = Readonly<{ host: string; port: number }>;

/**
 * Reads `host:port` or `[IPv6]:port`.
 * @throws UmsError BAD_REQUEST
 */
export function parseAddress(text: string): Address {
  const colon = text.lastIndexOf(":");
  const host = text.slice(0, colon).replace(/^\[|\]$/g, "");
  const port = Number(text.slice(colon + 1));
  const bracketed = text.startsWith("[");
  if (!new RegExp(addressPattern).test(text) || port < 1 || port > 65_535 || bracketed !== isIPv6(host)) {
    throw new UmsError("BAD_REQUEST", `“${text.slice(0, 100)}” is not an address of the form host:port.`);
  }
  return { host, port };
}

/** The inverse of {@link parseAddress}; an IPv4 address that came in by an IPv6 socket is written as IPv4. */
export function formatAddress({ host, port }: Address): string {
  const plain = host.startsWith("::ffff:") && isIPv4(host.slice(7)) ? host.slice(7) : host;
  return plain.includes(":") ? `[${plain}]:${port}` : `${plain}:${port}`;
}
