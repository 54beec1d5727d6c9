/** What will be different after a move, for a service that goes on well without it: the third verdict of a plan. */
import type { PortMapping } from "../protocol/container-spec.ts";
import type { CheckResult } from "../protocol/measures.ts";

/** A note, and the site that has it. */
export type Note<Site extends string = string> = Readonly<{ site: Site; detail: string }>;

/** Another site's checks may be many, and a migration keeps its notes. */
const mostOfSite = 32;

/** The notes of a site's checks. */
export const notesOf = <Site extends string>(site: Site, checks: readonly Pick<CheckResult, "notes">[]): Note<Site>[] =>
  checks
    .flatMap(({ notes = [] }) => notes)
    .slice(0, mostOfSite)
    .map((detail) => ({ site, detail }));

/** @param ports that a container publishes on its host @returns a sentence each */
export function clientNotes(ports: readonly PortMapping[]): string[] {
  const words = ({ hostIp, hostPort, protocol }: PortMapping) =>
    `${hostIp.includes(":") ? `[${hostIp}]` : hostIp || "0.0.0.0"}:${hostPort}/${protocol}`;
  const isLoopback = ({ hostIp }: PortMapping) => hostIp.startsWith("127.");
  const isIPv6 = ({ hostIp }: PortMapping) => hostIp.includes(":");
  const led = ports.filter((port) => !isLoopback(port) && !isIPv6(port));
  return [
    ...(led.some(({ protocol }) => protocol === "tcp") ? ["Connections that are open at the move are reset: clients connect again."] : []),
    ...(led.some(({ hostIp }) => hostIp === "" || hostIp === "0.0.0.0")
      ? ["Clients on this host that use 127.0.0.1 are not led to the destination: they need the host's own address."]
      : []),
    ...ports
      .filter(isLoopback)
      .map((port) => `Clients of ${words(port)} are not led to the destination: it is this host's loopback address.`),
    ...ports.filter(isIPv6).map((port) => `Clients of ${words(port)} are not led to the destination: only IPv4 is.`),
  ];
}
