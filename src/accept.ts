/** What a site takes of services that others send: what is said for all of them, then for each one. */
import type { Accept } from "./accept-form.ts";

/** Complete. */
export type Accepting = Readonly<Required<Accept>>;

const usual: Accepting = {
  approaches: ["container-level", "orchestrator-level"],
  namespaces: ["*"],
  images: ["*"],
  bindMounts: [],
  capabilities: [],
  sysctls: [],
  unconfined: false,
  privileged: false,
  hostPorts: false,
  probeHosts: false,
};

/** @param said by the site, then for the peer: what comes later counts */
export const accepting = (...said: readonly (Accept | undefined)[]): Accepting => Object.assign({}, usual, ...said) as Accepting;

/** Takes no service at all. */
export const nothing: Accept = { approaches: [] };

/** What of it isn't as usual, in a few words for a person. */
export function inWords(accept: Accepting): string {
  if (accept.approaches.length === 0) return "nothing";
  const words = (Object.keys(usual) as (keyof Accepting)[])
    .filter((field) => JSON.stringify(accept[field]) !== JSON.stringify(usual[field]))
    .map((field) => (accept[field] === true ? field : `${field} ${[accept[field]].flat().join(",") || "none"}`));
  return words.join("; ") || "as any";
}
